"""preference_700K (arXiv:2405.07863): eight preference data sets in one format.

Both columns are whole conversations that differ in their last message. The data set has neither
attributes nor contexts, and no test split: prompts are held out by a hash of their content.
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


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row."""

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        prompt, chosen, rejected = split_conversations(
            row["chosen"], row["rejected"], ("chosen", "rejected")
        )
        yield PreferencePair(
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            split=split_of(prompt, config.test_fraction),
            source=config.source,
            margin=_margin(row),
            row=number,
        )

    yield from files.pairs("train", parse)


def _margin(row: Row) -> float | None:
    """Difference of the scores; None if either is missing, as in many rows."""
    names = ("chosen_score", "rejected_score")
    try:
        chosen, rejected = (finite_number(row.get(name), name) for name in names)
    except RowError:
        return None
    return chosen - rejected


SOURCE = Published(
    name="preference_700k",
    summary="plain comparisons of eight sets, without attribute or context",
    upstream=Upstream(
        repo="hendrydong/preference_700K",
        revision="008cf51c01c025a303b6f27a005c2b7e31e28615",
        licence="not stated",
        parts=(Part("train", "train", None),),
        columns=frozenset({"chosen", "rejected"}),
        optional=frozenset({"chosen_score", "rejected_score"}),
        streaming=True,
        terms="a mixture: HH-RLHF (MIT), SHP (terms of the Reddit API), HelpSteer (CC-BY-4.0), "
        "PKU-SafeRLHF (CC-BY-NC-4.0), UltraFeedback and UltraInteract (MIT), Capybara and Orca "
        "(Apache-2.0)",
    ),
    variants={"all": ("train",)},
    convert=convert,
)
