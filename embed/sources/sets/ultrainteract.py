"""UltraInteract pairs (arXiv:2404.02078): right and wrong next steps of a reasoning dialogue.

The prompt is the dialogue so far, which must end with the user. The data set has no test split, so
prompts are held out by a hash of their content.
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..splitting import split_of
from ..upstream import Part, Upstream


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row."""

    def parse(number: int, row: Row) -> Iterator[PreferencePair]:
        turns = [{"role": turn["from"], "content": turn["value"]} for turn in row["trajectory"]]
        prompt = parse_prompt(turns, "trajectory")
        chosen, rejected = two_distinct_texts(row, ("chosen", "rejected"))
        yield PreferencePair(
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
            split=split_of(prompt, config.test_fraction),
            source=config.source,
            row=number,
        )

    yield from files.pairs("train", parse)


SOURCE = Published(
    name="ultrainteract",
    summary="right and wrong steps of reasoning dialogues",
    upstream=Upstream(
        repo="openbmb/UltraInteract_pair",
        revision="f97cc387d1666625967af65178ef1f58cb2ededd",
        licence="MIT",
        parts=(Part("train", "train", 219_522),),
        columns=frozenset({"trajectory", "chosen", "rejected"}),
        optional=frozenset({"task", "dataset", "id", "parent_id"}),
        streaming=True,
    ),
    variants={"all": ("train",)},
    convert=convert,
)
