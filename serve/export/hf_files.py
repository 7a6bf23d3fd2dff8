"""Configuration and tokenizer files that transformers 4 and 5 read alike.

What transformers 5 writes is misread by 4 without a warning: rotary settings have moved. So the
original files are taken and only what must change is changed, in both spellings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .persona import ExportError

# Tokens that vocabularies keep for padding, or for nothing at all; never the end of a turn.
PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "[PAD]", "<pad>", "<|reserved_special_token_0|>")
NEW_PADDING = "[PAD]"
TEMPLATE = "chat_template.jinja"
# Of the machine that the backbone was saved on, or true of another head only.
DROPPED = (
    *("_name_or_path", "num_labels", "problem_type", "transformers_version", "classifier_bias"),
    # OpenRLHF writes these into its reward models, and believes them before its own flags.
    *("value_head_prefix", "normalize_reward", "mean", "std"),
)
Json = dict[str, Any]


def classifier_config(
    original: Mapping[str, Any],
    *,
    architecture: str,
    labels: Sequence[str],
    pad_id: int,
    dtype: str,
    vocabulary: int,
) -> Json:
    """``config.json`` of a model for sequence classification from that of its backbone.

    ``vocabulary`` is the number of rows of the embedding. Raises ``ExportError`` for rotary
    settings that transformers 4 could not read.
    """
    found = readable_config(original)
    found["architectures"] = [architecture]
    found["problem_type"] = "regression"  # vLLM then serves rewards; else they become probabilities
    found["id2label"] = {str(place): label for place, label in enumerate(labels)}
    found["label2id"] = {label: place for place, label in enumerate(labels)}
    for part in _parts(found):
        part["pad_token_id"] = pad_id
        part["dtype"] = part["torch_dtype"] = dtype
        if "vocab_size" in part:
            part["vocab_size"] = vocabulary
    return found


def readable_config(original: Mapping[str, Any]) -> Json:
    """A configuration that transformers 4 and 5 read alike, without what names another machine."""
    found = {key: value for key, value in original.items() if key not in DROPPED}
    if isinstance(found.get("text_config"), dict):
        found["text_config"] = dict(found["text_config"])
    for part in _parts(found):
        part |= both_rope_spellings(part)
        if "dtype" in part:
            part["torch_dtype"] = part["dtype"]
    return found


def _parts(config: Json) -> list[Json]:
    """A configuration and, of a multimodal model, that of its text part."""
    inner = config.get("text_config")
    return [config, inner] if isinstance(inner, dict) else [config]


def both_rope_spellings(config: Mapping[str, Any]) -> Json:
    """The rotary settings as transformers 4 and as 5 spell them; nothing for other positions."""
    new = config.get("rope_parameters")
    if new is None:
        return {}  # transformers 5 reads the old spelling itself
    if not any(isinstance(value, Mapping) for value in new.values()):
        return _old_rope(new)
    if set(new) != {"full_attention", "sliding_attention"}:
        raise ExportError(
            f"rope_parameters of the backbone: expected one set, or one for full_attention and "
            f"sliding_attention, found {', '.join(map(str, new))}; transformers 4 has no spelling "
            "for it"
        )
    return _old_rope(new["full_attention"]) | {
        "rope_local_base_freq": new["sliding_attention"]["rope_theta"]
    }


def _old_rope(parameters: Mapping[str, Any]) -> Json:
    moved = ("rope_theta", "partial_rotary_factor")
    rest = {key: value for key, value in parameters.items() if key not in moved}
    scaled = rest.get("rope_type", "default") != "default"
    old = {key: parameters[key] for key in moved if key in parameters}
    return old | {"rope_scaling": rest if scaled else None}


def choose_padding(
    pad: str | None, taken: set[str], vocabulary: Mapping[str, int]
) -> tuple[str, bool]:
    """A padding token that no text ends with, and whether it is new to the vocabulary.

    ``pad`` is the tokenizer's own, ``taken`` the tokens that end texts or turns. Classifiers of
    transformers read the last token that is not padding: were it the end of a turn as well, they
    would read the token before.
    """
    for token in (pad, *PADDING):
        if token is not None and token not in taken and token in vocabulary:
            return token, False
    return NEW_PADDING, True


def padded_tokenizer(config: Mapping[str, Any], token: str, pad_id: int, *, new: bool) -> Json:
    """``tokenizer_config.json`` with the padding token, on the right.

    Version 4 hands token types to a model by default, which decoders refuse or misread.
    """
    found: Json = readable_tokenizer(config)
    if new and "added_tokens_decoder" in found:
        listed: Json = found["added_tokens_decoder"]
        found["added_tokens_decoder"] = listed | {str(pad_id): _added(token)}
    inputs = ["input_ids", "attention_mask"]
    return found | {"pad_token": token, "padding_side": "right", "model_input_names": inputs}


def readable_tokenizer(config: Mapping[str, Any]) -> Json:
    """``tokenizer_config.json`` that transformers 4 and 5 read alike.

    Version 5 names a class and a list of tokens that 4 does not know.
    """
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    for key in ("name_or_path", "is_local", "local_files_only", "backend"):
        found.pop(key, None)
    return found


def read_json(path: Path) -> Json:
    """A JSON object; an empty one where there is no file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def tokens_of(tokenizer: Mapping[str, Any]) -> set[str]:
    """Every token in a ``tokenizer.json``."""
    vocabulary = tokenizer["model"].get("vocab") or {}
    listed = vocabulary if isinstance(vocabulary, Mapping) else [item[0] for item in vocabulary]
    return {*listed, *(item["content"] for item in tokenizer["added_tokens"])}


def grown_tokenizer(tokenizer: Mapping[str, Any], token: str, pad_id: int) -> Json:
    """``tokenizer.json`` with one more special token."""
    added = [*tokenizer["added_tokens"], {"id": pad_id, **_added(token)}]
    return dict(tokenizer) | {"added_tokens": added}


def pinned_template(template: str, date: str) -> str:
    """A chat template that prints one date, whatever the caller's clock says."""
    if "strftime_now" not in template and "date_string" not in template:
        return template
    day = json.dumps(date)
    return (
        f"{{%- set date_string = {day} -%}}"
        f"{{%- macro strftime_now(_format) -%}}{date}{{%- endmacro -%}}{template}"
    )


def plain_template() -> str:
    """The plain layout of the run as a chat template: a blank line between the turns.

    As soon as the prompt has several turns they name their speakers.
    """
    return (
        "{%- set single = messages|length <= 2 and messages[0].role == 'user' -%}"
        "{%- for message in messages -%}"
        "{%- if not loop.first -%}{{- '\\n\\n' -}}{%- endif -%}"
        "{%- if not single -%}{{- message.role|capitalize + ': ' -}}{%- endif -%}"
        "{{- message.content -}}"
        "{%- endfor -%}"
    )


def _added(token: str) -> Json:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": token, **flags, "special": True}
