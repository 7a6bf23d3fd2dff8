"""Capybara DPO (distilabel): multi-turn conversations with two final answers, rated by a model.

The prompt is the conversation without its last message. Equal ratings are ties. The data set has no
test split, so prompts are held out by a hash of their content.
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, split_conversations
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..ratings import finite_number
from ..splitting import split_of
from ..upstream import Part, Upstream

RATINGS = ("rating_chosen", "rating_rejected")


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row whose ratings differ."""

    def parse(number: int, row: Row) -> list[PreferencePair]:
        margin = finite_number(row[RATINGS[0]], RATINGS[0]) - finite_number(
            row[RATINGS[1]], RATINGS[1]
        )
        if not margin:
            account.ties["rating"] += 1
            return []
        prompt, chosen, rejected = split_conversations(
            row["chosen"], row["rejected"], ("chosen", "rejected")
        )
        if margin < 0:
            raise RowError("rating_chosen", "lower than the rating of the rejected answer")
        return [
            PreferencePair(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                split=split_of(prompt, config.test_fraction),
                source=config.source,
                margin=margin,
                row=number,
            )
        ]

    yield from files.pairs("train", parse)


SOURCE = Published(
    name="capybara",
    summary="conversations of several turns with two last answers",
    upstream=Upstream(
        repo="argilla/distilabel-capybara-dpo-7k-binarized",
        revision="e84b88abd4081cd6c5accdb4389a56be8f4e3032",
        licence="Apache-2.0",
        parts=(Part("train", "train", 7_563),),
        columns=frozenset({"chosen", "rejected", *RATINGS}),
        optional=frozenset(
            {"source", "conversation", "original_response", "generation_prompt", "prompt"}
            | {"raw_generation_responses", "new_generations", "chosen_model", "rejected_model"}
        ),
    ),
    variants={"all": ("train",)},
    convert=convert,
)
