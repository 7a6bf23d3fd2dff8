"""PKU-SafeRLHF (arXiv:2406.15513): two answers, compared for safety and for helpfulness.

safety  a pair per row under the attribute safety. Rows whose answers are both safe are left out, as
        in the paper's code; the default
both    the same, and a pair per row under the attribute helpfulness
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import RowError, parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream

SAFETY = {"safety": "safer_response_id"}
LABELS = {"safety": SAFETY, "both": {"helpfulness": "better_response_id", **SAFETY}}
RESPONSES = ("response_0", "response_1")


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of both splits."""
    for split in ("train", "test"):

        def parse(number: int, row: Row, split: str = split) -> Iterator[PreferencePair]:
            prompt = parse_prompt(row["prompt"], "prompt")
            answers = two_distinct_texts(row, RESPONSES)
            for attribute, column in LABELS[files.variant].items():
                if attribute == "safety" and all([_safe(row, 0), _safe(row, 1)]):
                    files.leave_out("both responses are safe")
                    continue
                better = _label(row, column)
                yield PreferencePair(
                    prompt=prompt,
                    chosen=answers[better],
                    rejected=answers[1 - better],
                    split=split,
                    source=config.source,
                    attribute=attribute,
                    row=number,
                )

        yield from files.pairs(split, parse)


def _safe(row: Row, response: int) -> bool:
    column = f"is_response_{response}_safe"
    if not isinstance(row[column], bool):
        raise RowError(column, f"expected true or false, found {row[column]!r}")
    return row[column]


def _label(row: Row, column: str) -> int:
    if row.get(column) not in (0, 1) or isinstance(row[column], bool):
        raise RowError(column, f"expected 0 or 1, found {row.get(column)!r}")
    return int(row[column])


SOURCE = Published(
    name="pku_saferlhf",
    summary="the safer of two answers",
    upstream=Upstream(
        repo="PKU-Alignment/PKU-SafeRLHF",
        revision="d79b19b2043c4b168d8d64c61ef4ba4ed1ffe2c0",
        licence="CC-BY-NC-4.0",
        parts=(
            Part("train", "train", 73_907, subset="default"),
            Part("test", "test", 8_211, subset="default"),
        ),
        columns=frozenset(
            {"prompt", *RESPONSES, "is_response_0_safe", "is_response_1_safe", "safer_response_id"}
        ),
        optional=frozenset(
            {"prompt_source", "better_response_id"}
            | {
                f"response_{number}_{fact}"
                for number in (0, 1)
                for fact in ("source", "harm_category", "severity_level", "sha256")
            }
        ),
        terms="not for commercial use; contains harmful text",
    ),
    variants=dict.fromkeys(("safety", "both"), ("train", "test")),
    convert=convert,
    contexts="table6",
)
