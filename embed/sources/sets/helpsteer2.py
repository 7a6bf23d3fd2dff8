"""HelpSteer2 (arXiv:2406.08673): two responses per prompt, rated on five attributes from 0 to 4.

A pair per attribute and two responses of a prompt whose ratings differ; the higher is chosen.

by_prompt     tests on the validation split alone, so no prompt is in both; the default
official      what the paper's code does: the train split grouped by prompt in alphabetical order,
              the first 500 pairs of every attribute go to the test rows, as does the validation
              split. Attributes differ in where that cut falls, so responses that train under one
              attribute are tested under another: a leak, there to compare with Table 5
official_800  800 random test rows of those, as the published tables score; ``data.draw`` chooses
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text, parse_prompt
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..ratings import Comparison, RatedResponse, parse_ratings
from ..upstream import Part, Upstream

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
RATINGS = range(5)
OFFICIAL_TEST = 500
DRAWN_TEST = 800


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of a variant; ratings stay with them."""
    if files.variant == "by_prompt":
        yield from compared(files, "train", "train", config, account)
        yield from compared(files, "validation", "test", config, account)
        return
    # Unanimous responses leave the training rows after the cut, so that the test rows stay.
    every = replace(config, drop_unanimous=False)
    cut = _official(list(compared(files, "train", "train", every, account)))
    if config.drop_unanimous:
        cut = _disputed(cut, account)
    pairs = [*cut, *compared(files, "validation", "test", config, account)]
    yield from pairs if files.variant == "official" else _drawn(pairs, config.draw, account)


def compared(
    files: Files, part: str, split: str, config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    """Pairs of every two responses of a prompt and attribute whose ratings differ."""
    where = files.where(files.upstream.part(part))
    settings = replace(config, pairing="all")  # three prompts have more than two rows
    comparison = Comparison(ATTRIBUTES, settings, account)

    def rated(number: int, row: Row) -> Iterator[PreferencePair]:
        for name in ATTRIBUTES:
            if row[name] not in RATINGS:
                raise RowError(name, f"expected a rating from 0 to 4, found {row[name]!r}")
        response = RatedResponse(
            row=number,
            file=where,
            prompt=parse_prompt(row["prompt"], "prompt"),
            response=clean_text(row["response"], "response"),
            split=split,
            user=None,
            context=None,
            ratings=parse_ratings(row, ATTRIBUTES),
        )
        return comparison.add(response)

    yield from files.pairs(part, rated)
    yield from comparison.finish()


def _official(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """The first pairs of every attribute in alphabetical order of the prompts become test rows."""
    taken: dict[str | None, int] = defaultdict(int)
    split = []
    for pair in sorted(pairs, key=lambda pair: pair.prompt[-1].content):
        is_test = taken[pair.attribute] < OFFICIAL_TEST
        taken[pair.attribute] += is_test
        split.append(replace(pair, split="test") if is_test else pair)
    return split


def _disputed(pairs: list[PreferencePair], account: Account) -> list[PreferencePair]:
    """All but the training rows of responses that every attribute ranks the same way."""
    kept, unanimous = [], set()
    for pair in pairs:
        if pair.split == "train" and all(chosen > other for _, chosen, other in pair.ratings):
            unanimous.add((pair.prompt, pair.chosen, pair.rejected))
        else:
            kept.append(pair)
    account.unanimous += len(unanimous)
    return kept


def _drawn(pairs: list[PreferencePair], draw: int, account: Account) -> Iterator[PreferencePair]:
    test = [place for place, pair in enumerate(pairs) if pair.split == "test"]
    kept = set(np.random.default_rng(draw).permutation(test)[:DRAWN_TEST].tolist())
    for place, pair in enumerate(pairs):
        if pair.split == "train" or place in kept:
            yield pair
        else:
            account.left_out[f"not among the {DRAWN_TEST} test rows of the draw"] += 1


SOURCE = Published(
    name="helpsteer2",
    summary="ratings of two responses on five attributes",
    upstream=Upstream(
        repo="nvidia/HelpSteer2",
        revision="990b2711a36180dd19d9c94b8627844866f8982a",
        licence="CC-BY-4.0",
        parts=(Part("train", "train", 20_324), Part("validation", "validation", 1_038)),
        columns=frozenset({"prompt", "response", *ATTRIBUTES}),
    ),
    variants=dict.fromkeys(("by_prompt", "official", "official_800"), ("train", "validation")),
    convert=convert,
    contexts="table6",
)
