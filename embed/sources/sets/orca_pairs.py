"""Orca pairs (distilabel): an instruction with two answers, ranked by the ratings of a model.

Rows that the model calls a tie are dropped. The data set has no test split, so prompts are held out
by a hash of their content.

all      every row but ties; the default
curated  as its authors recommend: chosen answers rated 8 or higher, without the rows of GSM8K
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import clean_text, parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import Message, PreferencePair
from ..published import Files, Published
from ..ratings import finite_number
from ..splitting import split_of
from ..upstream import Part, Upstream

LEAST_SCORE = 8


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row that is not a tie."""

    def parse(number: int, row: Row) -> list[PreferencePair]:
        if row["status"] == "tie":
            account.ties["rating"] += 1
            return []
        if files.variant == "curated":
            if row["in_gsm8k_train"]:
                return files.leave_out("in the training rows of GSM8K")
            if finite_number(row["chosen_score"], "chosen_score") < LEAST_SCORE:
                return files.leave_out(f"chosen answer rated below {LEAST_SCORE}")
        prompt = parse_prompt(row["input"], "input")
        if row["system"]:
            prompt = (Message("system", clean_text(row["system"], "system")), *prompt)
        chosen, rejected = two_distinct_texts(row, ("chosen", "rejected"))
        return [
            PreferencePair(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                split=split_of(prompt, config.test_fraction),
                source=config.source,
                row=number,
            )
        ]

    yield from files.pairs("train", parse)


SOURCE = Published(
    name="orca_pairs",
    summary="instructions with two answers, ordered by a model",
    upstream=Upstream(
        repo="argilla/distilabel-intel-orca-dpo-pairs",
        revision="e9890b9696967fa66729e231ada3adff94b0f439",
        licence="Apache-2.0",
        parts=(Part("train", "train", 12_859),),
        columns=frozenset(
            {"system", "input", "chosen", "rejected", "status", "chosen_score", "in_gsm8k_train"}
        ),
        optional=frozenset(
            {"generations", "order", "labelling_model", "labelling_prompt", "rating", "rationale"}
            | {"raw_labelling_response", "original_chosen", "original_rejected"}
        ),
    ),
    variants=dict.fromkeys(("all", "curated"), ("train",)),
    convert=convert,
)
