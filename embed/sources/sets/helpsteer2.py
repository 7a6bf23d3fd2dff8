"""HelpSteer2 (arXiv:2406.08673): two responses per prompt, rated on five attributes from 0 to 4.

Every two responses to a prompt give a pair per attribute on which their ratings differ.

by_prompt     tests on the validation split alone, so no prompt is in both splits; the default
official      as in the paper's code: of the train split, sorted by prompt, the first 500 pairs of
              every attribute become test rows, in addition to the validation split. The cut falls
              elsewhere for every attribute, so responses that are trained on under one attribute
              are tested under another. The leak is kept to compare with Table 5
official_800  800 random test rows of official, as many as the published tables score; ``data.draw``
              is the seed
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
from ..ratings import RatedResponse, ResponsePairer, parse_ratings
from ..upstream import Part, Upstream

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
RATINGS = range(5)
OFFICIAL_TEST = 500
DRAWN_TEST = 800


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of the variant, with their ratings."""
    if files.variant == "by_prompt":
        yield from rated_pairs(files, "train", "train", config, account)
        yield from rated_pairs(files, "validation", "test", config, account)
        return
    # Unanimous pairs are dropped after the cut, so that dropping them changes no test row.
    all_pairs = replace(config, drop_unanimous=False)
    cut = _official(list(rated_pairs(files, "train", "train", all_pairs, account)))
    if config.drop_unanimous:
        cut = _disputed(cut, account)
    pairs = [*cut, *rated_pairs(files, "validation", "test", config, account)]
    yield from pairs if files.variant == "official" else _drawn(pairs, config.draw, account)


def rated_pairs(
    files: Files, part: str, split: str, config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    """Pairs of every two responses to a prompt, under each attribute on which ratings differ."""
    where = files.where(files.upstream.part(part))
    settings = replace(config, pairing="all")  # three prompts have more than two responses
    pairer = ResponsePairer(ATTRIBUTES, settings, account)

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
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
        return pairer.add(response)

    yield from files.pairs(part, parse)
    yield from pairer.finish()


def _official(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """The first pairs of every attribute, in alphabetical order of prompts, become test rows."""
    test_rows: dict[str | None, int] = defaultdict(int)
    result = []
    for pair in sorted(pairs, key=lambda pair: pair.prompt[-1].content):
        is_test = test_rows[pair.attribute] < OFFICIAL_TEST
        test_rows[pair.attribute] += is_test
        result.append(replace(pair, split="test") if is_test else pair)
    return result


def _disputed(pairs: list[PreferencePair], account: Account) -> list[PreferencePair]:
    """Drop training pairs of responses that every attribute ranks the same way."""
    kept, unanimous = [], set()
    for pair in pairs:
        if pair.split == "train" and all(chosen > other for _, chosen, other in pair.ratings):
            unanimous.add((pair.prompt, pair.chosen, pair.rejected))
        else:
            kept.append(pair)
    account.unanimous += len(unanimous)
    return kept


def _drawn(pairs: list[PreferencePair], draw: int, account: Account) -> Iterator[PreferencePair]:
    """All training pairs and a random subset of the test pairs."""
    test = [index for index, pair in enumerate(pairs) if pair.split == "test"]
    kept = set(np.random.default_rng(draw).permutation(test)[:DRAWN_TEST].tolist())
    for index, pair in enumerate(pairs):
        if pair.split == "train" or index in kept:
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
