"""Wishes in words for attributes: read from a JSON file and given to the pairs that have none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from .conversation import RowError, clean_text
from .pair import DataError, PreferencePair, hash_fraction

Wishes = dict[str, dict[str, list[str]]]
# table6: the paper's wordings for HelpSteer2 and safety. reward_bench: one per subset, written for
# this project, because the paper does not print its own.
BUILT_IN = ("table6", "reward_bench")
NO_WISHES = "none"


def read_contexts(path: str) -> Wishes:
    """``{attribute: {"train": [...], "test": [...]}}``; a list or one text serves both splits.

    ``path`` is a JSON file or the name of wishes that come with the package.
    """
    file = Path(__file__).parent / "wishes" / f"{path}.json" if path in BUILT_IN else Path(path)
    if not file.is_file():
        raise DataError(
            f"{path}: no such file; give an existing one with --data.contexts, or one of "
            f"{', '.join((*BUILT_IN, NO_WISHES))}"
        )
    try:
        raw = json.loads(file.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(raw, dict):
        raise DataError(f"{path}: expected an object of attributes, found {type(raw).__name__}")
    return {attribute: _wishes(value, f"{path}: {attribute}") for attribute, value in raw.items()}


def with_wish(pair: PreferencePair, wishes: Wishes) -> PreferencePair:
    """The pair with one wording of its attribute for its own split, if it has no context yet.

    The choice depends on the pair's content only, so it survives any reordering of the file.
    """
    if pair.context is not None or pair.attribute not in wishes:
        return pair
    texts = wishes[pair.attribute][pair.split]
    return replace(pair, context=texts[int(hash_fraction("context", pair.pair_id) * len(texts))])


def _wishes(value: object, where: str) -> dict[str, list[str]]:
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
