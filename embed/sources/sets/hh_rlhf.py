"""HH-RLHF (arXiv:2204.05862): two final answers to a conversation, the helpful or harmless chosen.

Both columns are whole transcripts. The prompt is everything before the last answer, over all turns;
rows whose transcripts differ before it are refused. The folder determines the attribute.

base  helpful-base and harmless-base; the default
all   also the online and the rejection-sampled answers, which are all compared for helpfulness
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import split_conversations
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream

# By folder: number of training and of test rows.
FOLDERS = {
    "helpful-base": (43_835, 2_354),
    "harmless-base": (42_537, 2_312),
    "helpful-online": (22_007, 1_137),
    "helpful-rejection-sampled": (52_421, 2_749),
}
PARTS = tuple(
    Part(f"{folder}-{split}", split, count, folder=folder)
    for folder, counts in FOLDERS.items()
    for split, count in zip(("train", "test"), counts, strict=True)
)


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row of the folders of the variant."""
    for name in SOURCE.variants[files.variant]:
        part = files.upstream.part(name)

        def parse(number: int, row: Row, part: Part = part) -> Iterator[PreferencePair]:
            prompt, chosen, rejected = split_conversations(
                row["chosen"], row["rejected"], ("chosen", "rejected")
            )
            yield PreferencePair(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                split=part.split,
                source=config.source,
                attribute=part.name.partition("-")[0],
                row=number,
            )

        yield from files.pairs(name, parse)


SOURCE = Published(
    name="hh_rlhf",
    summary="helpful or harmless answers in conversations",
    upstream=Upstream(
        repo="Anthropic/hh-rlhf",
        revision="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
        licence="MIT",
        parts=PARTS,
        columns=frozenset({"chosen", "rejected"}),
        terms="contains offensive text",
    ),
    variants={
        "base": tuple(part.name for part in PARTS if str(part.folder).endswith("-base")),
        "all": tuple(part.name for part in PARTS),
    },
    convert=convert,
)
