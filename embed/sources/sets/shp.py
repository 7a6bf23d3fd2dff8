"""SHP (arXiv:2110.08420): two comments on a post, of which the one with more votes is chosen.

As in the paper's code, both scores must exceed 3. The subreddit is the attribute.

test        tests on the test split; the default
validation  tests on the validation split
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, clean_text, parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..ratings import finite_number
from ..upstream import Part, Upstream

LEAST_SCORE = 3


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """A pair for each row whose scores are high enough."""
    for part, split in (("train", "train"), (files.variant, "test")):

        def parse(number: int, row: Row, split: str = split) -> list[PreferencePair]:
            scores = [finite_number(row[name], name) for name in ("score_A", "score_B")]
            if min(scores) <= LEAST_SCORE:
                return files.leave_out(f"a score is not above {LEAST_SCORE}")
            if row["labels"] not in (0, 1):
                raise RowError("labels", f"expected 0 or 1, found {row['labels']!r}")
            answers = two_distinct_texts(row, ("human_ref_B", "human_ref_A"))
            domain = clean_text(row["domain"], "domain")
            better = int(row["labels"])  # 1 is A
            return [
                PreferencePair(
                    prompt=parse_prompt(row["history"], "history"),
                    chosen=answers[better],
                    rejected=answers[1 - better],
                    split=split,
                    source=config.source,
                    attribute=re.sub("_(train|validation|test)$", "", domain),
                    margin=abs(scores[0] - scores[1]),
                    row=number,
                )
            ]

        yield from files.pairs(part, parse)


SOURCE = Published(
    name="shp",
    summary="comments with more and fewer votes under one post",
    upstream=Upstream(
        repo="stanfordnlp/SHP",
        revision="7d802b0fe8bc84bee9cda4b64a3aa288636795a1",
        licence="terms of the Reddit API",
        parts=(
            Part("train", "train", 348_718),
            Part("validation", "validation", 18_436),
            Part("test", "test", 18_409),
        ),
        columns=frozenset(
            {"domain", "history", "score_A", "score_B", "human_ref_A", "human_ref_B", "labels"}
        ),
        optional=frozenset(
            {"post_id", "upvote_ratio", "c_root_id_A", "c_root_id_B", "seconds_difference"}
            | {"created_at_utc_A", "created_at_utc_B", "score_ratio"}
        ),
        streaming=True,
    ),
    variants={"test": ("train", "test"), "validation": ("train", "validation")},
    convert=convert,
)
