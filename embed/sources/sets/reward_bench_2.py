"""RewardBench 2 (arXiv:2506.01937): correct and incorrect answers to a prompt, test only.

A row gives a pair for every correct and every incorrect answer. These pairs share its row number,
by which ``heads.evaluation.reward_bench`` groups them again. The subset is the attribute.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text, parse_prompt
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of every row; an answer that cannot be used refuses the whole row."""

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        prompt = parse_prompt(row["prompt"], "prompt")
        attribute = clean_text(row["subset"], "subset")
        chosen, rejected = _answers(row, "chosen"), _answers(row, "rejected")
        if set(chosen) & set(rejected):
            raise RowError("rejected", "an answer is both right and wrong")
        for right, wrong in itertools.product(chosen, rejected):
            yield PreferencePair(
                prompt=prompt,
                chosen=right,
                rejected=wrong,
                split="test",
                source=config.source,
                attribute=attribute,
                row=number,
            )

    yield from files.pairs("test", parse)


def _answers(row: Row, field: str) -> list[str]:
    if not isinstance(row[field], list) or not row[field]:
        raise RowError(field, f"expected a list of texts, found {row[field]!r}")
    return [clean_text(text, f"{field}[{index}]") for index, text in enumerate(row[field])]


SOURCE = Published(
    name="reward_bench_2",
    summary="right answers among wrong ones in six subsets, for tests only",
    upstream=Upstream(
        repo="allenai/reward-bench-2",
        revision="main",  # the commit of the count below is not known
        licence="ODC-BY",
        parts=(Part("test", "test", 1_865),),
        columns=frozenset({"prompt", "chosen", "rejected", "subset"}),
        optional=frozenset(
            {"id", "num_correct", "num_incorrect", "total_completions", "models"}
            | {"additional_metadata"}
        ),
    ),
    variants={"test": ("test",)},
    convert=convert,
)
