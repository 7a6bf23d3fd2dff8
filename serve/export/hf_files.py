"""Configuration and tokenizer files that transformers 4 and 5 read alike.

Version 5 renamed the rotary settings, so version 4 silently misreads files that version 5 wrote.
The backbone's original files are therefore copied with only the necessary changes, and renamed
settings are written under both names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .persona import ExportError

# Tokens that common vocabularies reserve for padding or leave unused; none of them ends a turn.
PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "[PAD]", "<pad>", "<|reserved_special_token_0|>")
NEW_PADDING = "[PAD]"
TEMPLATE = "chat_template.jinja"
# Keys that describe where the backbone was saved, or a head that it had.
DROPPED = (
    *("_name_or_path", "num_labels", "problem_type", "transformers_version", "classifier_bias"),
    # OpenRLHF writes these into its reward models, where they take precedence over its flags.
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
        original: Configuration of the backbone; it is not modified.
        architecture: Name of the classifier's class in transformers.
        labels: Names of the outputs.
        pad_id: Id of the padding token.
        dtype: Name of the dtype of the weights.
        vocabulary: Rows of the embedding matrix.

    Raises:
        ExportError: transformers 4 cannot express the rotary settings.
    """
    config = portable_config(original)
    config["architectures"] = [architecture]
    config["problem_type"] = "regression"  # otherwise vLLM returns probabilities, not rewards
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    for section in _sections(config):
        section["pad_token_id"] = pad_id
        section["dtype"] = section["torch_dtype"] = dtype
        if "vocab_size" in section:
            section["vocab_size"] = vocabulary
    return config


def portable_config(original: Mapping[str, Any]) -> Json:
    """Copy a ``config.json`` such that transformers 4 and 5 read it alike.

    The keys in ``DROPPED`` are left out. Raises ``ExportError`` as ``both_rope_spellings`` does.
    """
    config = {key: value for key, value in original.items() if key not in DROPPED}
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = dict(config["text_config"])
    for section in _sections(config):
        section |= both_rope_spellings(section)
        if "dtype" in section:
            section["torch_dtype"] = section["dtype"]
    return config


def _sections(config: Json) -> list[Json]:
    """The configuration itself and, of a multimodal model, its ``text_config``."""
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def both_rope_spellings(config: Mapping[str, Any]) -> Json:
    """Translate ``rope_parameters`` of transformers 5 into the keys of version 4, to be added.

    Args:
        config: A ``config.json`` or its ``text_config``.

    Returns:
        The keys of version 4; empty if there is no ``rope_parameters``, because version 5 reads
        the keys of version 4.

    Raises:
        ExportError: There are settings for layers other than full and sliding attention.

    >>> both_rope_spellings({"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}})
    {'rope_theta': 500000.0, 'rope_scaling': None}
    """
    new = config.get("rope_parameters")
    if new is None:
        return {}
    if not any(isinstance(value, Mapping) for value in new.values()):  # one set for all layers
        return _version_4_rope(new)
    if set(new) != {"full_attention", "sliding_attention"}:
        raise ExportError(
            "rope_parameters in the backbone's config.json: expected one set for all layers, or "
            f"one each for full_attention and sliding_attention, found {', '.join(map(str, new))}; "
            "transformers 4 cannot express these, so this backbone cannot be exported"
        )
    return _version_4_rope(new["full_attention"]) | {
        "rope_local_base_freq": new["sliding_attention"]["rope_theta"]
    }


def _version_4_rope(parameters: Mapping[str, Any]) -> Json:
    """One set of ``rope_parameters`` as the keys of version 4."""
    # Version 4 keeps these two outside of rope_scaling.
    moved = ("rope_theta", "partial_rotary_factor")
    scaling = {key: value for key, value in parameters.items() if key not in moved}
    scaled = scaling.get("rope_type", "default") != "default"
    old = {key: parameters[key] for key in moved if key in parameters}
    return old | {"rope_scaling": scaling if scaled else None}


def choose_padding(
    pad: str | None, end_tokens: set[str], vocabulary: Mapping[str, int]
) -> tuple[str, bool]:
    """Choose a padding token that never ends a text or turn.

    Classifiers of transformers pool the last token that is not padding. If turns ended with the
    padding token, they would pool the token before it.

    Args:
        pad: The tokenizer's own padding token, or None.
        end_tokens: Tokens that end texts or turns.
        vocabulary: Token ids by token.

    Returns:
        The token, and whether it must be added to the vocabulary.

    >>> choose_padding("<eos>", {"<eos>"}, {"<eos>": 0, "<pad>": 1})
    ('<pad>', False)
    """
    for token in (pad, *PADDING):
        if token is not None and token not in end_tokens and token in vocabulary:
            return token, False
    return NEW_PADDING, True


def padding_tokenizer_config(
    original: Mapping[str, Any], token: str, pad_id: int, *, new: bool
) -> Json:
    """Derive a ``tokenizer_config.json`` that pads on the right with ``token``.

    The names of the model's inputs are listed, because version 4 otherwise passes token type ids,
    which decoders reject or misread.

    Args:
        original: ``tokenizer_config.json`` of the backbone; it is not modified.
        token: The padding token.
        pad_id: Its id.
        new: Whether the token was added to the vocabulary.
    """
    config: Json = portable_tokenizer_config(original)
    if new and "added_tokens_decoder" in config:
        decoder: Json = config["added_tokens_decoder"]
        config["added_tokens_decoder"] = decoder | {str(pad_id): _added(token)}
    inputs = ["input_ids", "attention_mask"]
    return config | {"pad_token": token, "padding_side": "right", "model_input_names": inputs}


def portable_tokenizer_config(original: Mapping[str, Any]) -> Json:
    """Copy a ``tokenizer_config.json`` such that transformers 4 and 5 read it alike.

    Version 5 writes a class name and a key that version 4 does not know.
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
    """Load a JSON object; empty if the file does not exist."""
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def tokenizer_tokens(tokenizer: Mapping[str, Any]) -> set[str]:
    """All tokens of a ``tokenizer.json``, including added ones."""
    vocabulary = tokenizer["model"].get("vocab") or {}
    # Unigram models store a list of (token, score) pairs.
    tokens = vocabulary if isinstance(vocabulary, Mapping) else [item[0] for item in vocabulary]
    return {*tokens, *(item["content"] for item in tokenizer["added_tokens"])}


def add_special_token(tokenizer: Mapping[str, Any], token: str, pad_id: int) -> Json:
    """Copy a ``tokenizer.json`` and add a special token with the given id."""
    added = [*tokenizer["added_tokens"], {"id": pad_id, **_added(token)}]
    return dict(tokenizer) | {"added_tokens": added}


def pinned_template(template: str, date: str) -> str:
    """Make a chat template print ``date`` instead of the current date.

    Otherwise the tokens, and with them the scores, would change from day to day. Templates that
    print no date are returned unchanged.
    """
    if "strftime_now" not in template and "date_string" not in template:
        return template
    day = json.dumps(date)
    return (
        f"{{%- set date_string = {day} -%}}"
        f"{{%- macro strftime_now(_format) -%}}{date}{{%- endmacro -%}}{template}"
    )


def plain_template() -> str:
    """The plain layout as a chat template: turns separated by blank lines.

    If the prompt has several turns, the name of the speaker precedes each turn.
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
    """Entry of a special token, as tokenizer files list added tokens."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": token, **flags, "special": True}
