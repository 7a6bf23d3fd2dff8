"""RewardBench (arXiv:2403.13787): 2,985 pairs of a good and a bad answer in 23 subsets, test only.

The subset is the attribute. ``heads.evaluation.reward_bench`` groups subsets into sections.
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import clean_text, parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row."""

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        chosen, rejected = two_distinct_texts(row, ("chosen", "rejected"))
        yield PreferencePair(
            prompt=parse_prompt(row["prompt"], "prompt"),
            chosen=chosen,
            rejected=rejected,
            split="test",
            source=config.source,
            attribute=clean_text(row["subset"], "subset"),
            row=number,
        )

    yield from files.pairs("filtered", parse)


SOURCE = Published(
    name="reward_bench",
    summary="good and bad answers in 23 subsets, for tests only",
    upstream=Upstream(
        repo="allenai/reward-bench",
        revision="01272f0c04adcbe7de26ea6250e03d5a90a6925b",
        licence="ODC-BY",
        parts=(Part("filtered", "filtered", 2_985),),
        columns=frozenset({"prompt", "chosen", "rejected", "subset"}),
        optional=frozenset({"id", "chosen_model", "rejected_model"}),
    ),
    variants={"filtered": ("filtered",)},
    convert=convert,
    contexts="reward_bench",
)
