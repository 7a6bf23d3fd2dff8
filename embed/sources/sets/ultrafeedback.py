"""UltraFeedback (arXiv:2310.01377): four answers per instruction, rated on four attributes.

Ratings are texts from 1 to 5, or N/A, which is no rating: every two answers of an instruction are
compared on the attributes that both have a rating on. It brings no test split: prompts are held out
by their content.
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
from ..ratings import Comparison, RatedResponse
from ..splitting import split_of
from ..upstream import Part, Upstream

ATTRIBUTES = ("instruction_following", "truthfulness", "honesty", "helpfulness")
RATINGS = ("1", "2", "3", "4", "5")


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of every instruction."""
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
                response=clean_text(item["response"], f"completions[{place}].response"),
                split=split,
                user=None,
                context=None,
                ratings=_ratings(item["annotations"], f"completions[{place}]"),
            )
            for place, item in enumerate(row["completions"])
        ]
        comparison = Comparison(ATTRIBUTES, replace(config, pairing="all"), account)
        for answer in answers:
            missing = [name for name in ATTRIBUTES if name not in answer.ratings]
            account.left_out.update(f"ratings of {name} that are N/A" for name in missing)
            list(comparison.add(answer))
        return list(comparison.finish())

    yield from files.pairs("train", parse)


def _ratings(annotations: Any, field: str) -> dict[str, float]:
    """The ratings that there are; N/A is none."""
    found = {}
    for name in ATTRIBUTES:
        value = annotations[name]["Rating"]
        # Where a file mixes types, datasets gives numbers for texts.
        if str(value) in RATINGS:
            found[name] = float(value)
        elif value != "N/A":
            raise RowError(
                f"{field}.annotations.{name}.Rating",
                f"expected one of {', '.join(RATINGS)} or N/A, found {value!r}",
            )
    return found


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
