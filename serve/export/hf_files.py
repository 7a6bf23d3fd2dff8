"""Configuration and tokenizer files that transformers 4 and 5 read alike.

Version 4 silently misreads files written by version 5, which renamed the rotary settings. The
original files are therefore copied, and only the necessary changes are made, in both spellings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .persona import ExportError

# Tokens that vocabularies reserve for padding or leave unused; none ends a turn.
PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "[PAD]", "<pad>", "<|reserved_special_token_0|>")
NEW_PADDING = "[PAD]"
TEMPLATE = "chat_template.jinja"
# Keys that describe the machine the backbone was saved on, or another head.
DROPPED = (
    *("_name_or_path", "num_labels", "problem_type", "transformers_version", "classifier_bias"),
    # OpenRLHF writes these into its reward models and lets them override its own flags.
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
    """Derive the ``config.json`` of a sequence classifier from that of its backbone.

    Args:
        original: Configuration of the backbone; it is not changed.
        architecture: Class name in transformers.
        labels: Names of the outputs.
        pad_id: Id of the padding token.
        dtype: Name of the dtype of the weights.
        vocabulary: Number of rows of the embedding.

    Raises ``ExportError`` for rotary settings that transformers 4 cannot express.
    """
    config = portable_config(original)
    config["architectures"] = [architecture]
    config["problem_type"] = "regression"  # else vLLM turns rewards into probabilities
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    for part in _parts(config):
        part["pad_token_id"] = pad_id
        part["dtype"] = part["torch_dtype"] = dtype
        if "vocab_size" in part:
            part["vocab_size"] = vocabulary
    return config


def portable_config(original: Mapping[str, Any]) -> Json:
    """A copy that transformers 4 and 5 read alike, without the keys in ``DROPPED``."""
    config = {key: value for key, value in original.items() if key not in DROPPED}
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = dict(config["text_config"])
    for part in _parts(config):
        part |= both_rope_spellings(part)
        if "dtype" in part:
            part["torch_dtype"] = part["dtype"]
    return config


def _parts(config: Json) -> list[Json]:
    """The configuration and, for a multimodal model, that of its text part."""
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def both_rope_spellings(config: Mapping[str, Any]) -> Json:
    """The rotary settings as transformers 4 spells them, to be added to those of version 5.

    Empty without ``rope_parameters``. Raises ``ExportError`` for layer types other than full and
    sliding attention.
    """
    new = config.get("rope_parameters")
    if new is None:
        return {}  # transformers 5 reads the old spelling
    if not any(isinstance(value, Mapping) for value in new.values()):  # one set for all layers
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
    scaling = {key: value for key, value in parameters.items() if key not in moved}
    scaled = scaling.get("rope_type", "default") != "default"
    old = {key: parameters[key] for key in moved if key in parameters}
    return old | {"rope_scaling": scaling if scaled else None}


def choose_padding(
    pad: str | None, taken: set[str], vocabulary: Mapping[str, int]
) -> tuple[str, bool]:
    """Choose a padding token that ends no text; also return whether it must be added.

    Classifiers of transformers pool the last token that is not padding. If the padding token also
    ended turns, they would pool the token before it.

    Args:
        pad: The tokenizer's own padding token, or None.
        taken: Tokens that end texts or turns.
        vocabulary: Ids by token.

    >>> choose_padding("<eos>", {"<eos>"}, {"<eos>": 0, "<pad>": 1})
    ('<pad>', False)
    """
    for token in (pad, *PADDING):
        if token is not None and token not in taken and token in vocabulary:
            return token, False
    return NEW_PADDING, True


def padding_tokenizer_config(
    original: Mapping[str, Any], token: str, pad_id: int, *, new: bool
) -> Json:
    """``tokenizer_config.json`` with right padding by ``token``.

    The input names are explicit because version 4 otherwise passes token types to the model, which
    decoders reject or misread.
    """
    config: Json = portable_tokenizer_config(original)
    if new and "added_tokens_decoder" in config:
        decoder: Json = config["added_tokens_decoder"]
        config["added_tokens_decoder"] = decoder | {str(pad_id): _added(token)}
    inputs = ["input_ids", "attention_mask"]
    return config | {"pad_token": token, "padding_side": "right", "model_input_names": inputs}


def portable_tokenizer_config(original: Mapping[str, Any]) -> Json:
    """``tokenizer_config.json`` that transformers 4 and 5 read alike.

    Version 5 writes a class and a key that version 4 does not know.
    """
    config = dict(original)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    for key in ("name_or_path", "is_local", "local_files_only", "backend"):
        config.pop(key, None)
    return config


def read_json(path: Path) -> Json:
    """Load a JSON object, empty if there is no file."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def tokenizer_tokens(tokenizer: Mapping[str, Any]) -> set[str]:
    """Every token in a ``tokenizer.json``, added ones included."""
    vocabulary = tokenizer["model"].get("vocab") or {}
    # Unigram models store a list of (token, score).
    tokens = vocabulary if isinstance(vocabulary, Mapping) else [item[0] for item in vocabulary]
    return {*tokens, *(item["content"] for item in tokenizer["added_tokens"])}


def add_special_token(tokenizer: Mapping[str, Any], token: str, pad_id: int) -> Json:
    """A copy of ``tokenizer.json`` with one more special token."""
    added = [*tokenizer["added_tokens"], {"id": pad_id, **_added(token)}]
    return dict(tokenizer) | {"added_tokens": added}


def pinned_template(template: str, date: str) -> str:
    """Prefix a chat template so that it prints ``date`` instead of today's.

    Some templates state the current date, which would change the tokens from day to day.
    """
    if "strftime_now" not in template and "date_string" not in template:
        return template
    day = json.dumps(date)
    return (
        f"{{%- set date_string = {day} -%}}"
        f"{{%- macro strftime_now(_format) -%}}{date}{{%- endmacro -%}}{template}"
    )


def plain_template() -> str:
    """The plain layout as a chat template: turns separated by a blank line.

    Speakers are named if the prompt has several turns.
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
