"""Contexts of attributes: read from a JSON file, and given to pairs that have no context."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from .conversation import RowError, clean_text
from .pair import DataError, PreferencePair, hash_fraction

Contexts = dict[str, dict[str, list[str]]]
# table6: the paper's contexts for HelpSteer2 and safety. reward_bench: one per subset, written for
# this project because the paper does not print its own.
BUILT_IN = ("table6", "reward_bench")
NO_CONTEXTS = "none"


def read_contexts(path: str) -> Contexts:
    """Read the contexts of every attribute and split.

    Args:
        path: A name in ``BUILT_IN``, or a JSON file
            ``{attribute: {"train": [...], "test": [...]}}``, where a list or a single text per
            attribute serves both splits.

    Raises ``DataError`` if the file is missing or malformed.
    """
    file = Path(__file__).parent / "wishes" / f"{path}.json" if path in BUILT_IN else Path(path)
    if not file.is_file():
        raise DataError(
            f"{path}: no such file; give an existing one with --data.contexts, or one of "
            f"{', '.join((*BUILT_IN, NO_CONTEXTS))}"
        )
    try:
        raw = json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected an object of attributes, found {type(raw).__name__}")
    return {attribute: _by_split(value, f"{path}: {attribute}") for attribute, value in raw.items()}


def with_context(pair: PreferencePair, contexts: Contexts) -> PreferencePair:
    """Give a pair without a context one of the contexts of its attribute and split.

    A hash of the pair chooses among them, so the choice does not depend on the order of the file.
    """
    if pair.context is not None or pair.attribute not in contexts:
        return pair
    texts = contexts[pair.attribute][pair.split]
    return replace(pair, context=texts[int(hash_fraction("context", pair.pair_id) * len(texts))])


def _by_split(value: object, where: str) -> dict[str, list[str]]:
    if isinstance(value, dict):
        missing = {"train", "test"} - value.keys()
        if missing:
            raise DataError(f"{where}: expected the keys train and test, missing {sorted(missing)}")
        return {split: _texts(value[split], f"{where}.{split}") for split in ("train", "test")}
    return {split: _texts(value, where) for split in ("train", "test")}


def _texts(value: object, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise DataError(f"{where}: expected a text or a list of texts, found {value!r}")
    for text in texts:
        try:
            clean_text(text, where)
        except RowError as error:
            raise DataError(f"{where}: {error.reason}") from error
    return texts
