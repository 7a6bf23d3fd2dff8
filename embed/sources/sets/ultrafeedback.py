"""UltraFeedback (arXiv:2310.01377): four answers per instruction, rated on four attributes.

Ratings are the texts 1 to 5, or N/A for none. Every two answers to an instruction are compared on
the attributes that both have a rating for. The data set has no test split, so prompts are held out
by a hash of their content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text, parse_prompt
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..ratings import RatedResponse, ResponsePairer
from ..splitting import split_of
from ..upstream import Part, Upstream

ATTRIBUTES = ("instruction_following", "truthfulness", "honesty", "helpfulness")
RATINGS = ("1", "2", "3", "4", "5")


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of all instructions."""
    where = files.where(files.upstream.part("train"))

    def parse(number: int, row: Row) -> list[PreferencePair]:
        if not row["completions"]:
            return files.leave_out("no completions")
        prompt = parse_prompt(row["instruction"], "instruction")
        split = split_of(prompt, config.test_fraction)
        answers = [
            RatedResponse(
                row=number,
                file=where,
                prompt=prompt,
                response=clean_text(item["response"], f"completions[{index}].response"),
                split=split,
                user=None,
                context=None,
                ratings=_ratings(item["annotations"], f"completions[{index}]"),
            )
            for index, item in enumerate(row["completions"])
        ]
        pairer = ResponsePairer(ATTRIBUTES, replace(config, pairing="all"), account)
        for answer in answers:
            missing = [name for name in ATTRIBUTES if name not in answer.ratings]
            account.left_out.update(f"ratings of {name} that are N/A" for name in missing)
            list(pairer.add(answer))
        return list(pairer.finish())

    yield from files.pairs("train", parse)


def _ratings(annotations: Any, field: str) -> dict[str, float]:
    """Ratings of an answer by attribute, without those that are N/A."""
    ratings = {}
    for name in ATTRIBUTES:
        value = annotations[name]["Rating"]
        # In files of mixed types, ``datasets`` turns texts into numbers.
        if str(value) in RATINGS:
            ratings[name] = float(value)
        elif value != "N/A":
            raise RowError(
                f"{field}.annotations.{name}.Rating",
                f"expected one of {', '.join(RATINGS)} or N/A, found {value!r}",
            )
    return ratings


SOURCE = Published(
    name="ultrafeedback",
    summary="ratings of four answers on four attributes by a model",
    upstream=Upstream(
        repo="openbmb/UltraFeedback",
        revision="40b436560ca83a8dba36114c22ab3c66e43f6d5e",
        licence="MIT",
        parts=(Part("train", "train", 63_967),),
        columns=frozenset({"instruction", "completions"}),
        optional=frozenset({"source", "models", "correct_answers", "incorrect_answers"}),
    ),
    variants={"all": ("train",)},
    convert=convert,
)
