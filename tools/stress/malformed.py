"""A grammar of preference files with bad rows in them, and what must hold for any such file.

Good rows carry a mark of their own, so that each can be found among the pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.pair import DataError, PreferencePair

RATED = ("help", "brief")
COLUMNS = ("prompt", "chosen", "rejected", "attribute", "context", "user", "split", "margin")
HUMAN = "\n\nHuman: go\n\nAssistant: ok\n\nHuman: on"


@dataclass(frozen=True)
class Line:
    """A line of a file and the mark of its pair; None where no pair can come from it."""

    content: bytes
    mark: str | None = None


ODD_TEXTS = st.sampled_from(
    [
        "",
        " \t\n\u2003",
        "\ud800",
        "a\udfffb",
        "a\x00b",
        "Human: ",
        "Human: a\n\nHuman: b",
        "\n\nHuman: a\n\nAssistant:",
    ]
)
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    ODD_TEXTS,
    st.lists(st.none() | st.integers() | ODD_TEXTS, max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just([{"role": "robot", "content": "x"}]),
    st.just([{"role": ["user"], "content": "x"}]),
    st.just([{"role": {"role": {}}, "content": "x"}]),
    st.just([{"role": "user"}]),
    st.just([{"role": "user", "content": ["x"]}]),
    st.just([{"role": "assistant", "content": "x"}]),
    st.just([{"role": "user", "content": "x\ud800"}]),
    st.just([[[[[[[[]]]]]]]]),
)
# Unusual, and to be read all the same: scripts, directions, controls, joined and unassigned signs.
GOOD_TEXTS = st.one_of(
    st.text(
        st.characters(blacklist_categories=["Cs"], blacklist_characters="\x00"),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(
        [
            "\u202e\u05d0\u05d1\u05d2 abc \u0627\u0644\u0639",
            "\x1b[31mred\x07\x08",
            "\u6f22\u5b57\U0001f469\u200d\U0001f52c e\u0301",
            "\ufeff\u200b\ufffe",
            "{{ messages }} {% raise %} <|eot_id|> <script>",
            "x" * 10_000,
        ]
    ),
)
GARBAGE = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
    st.sampled_from(
        [
            b"{",
            b'{"prompt": "a", "chosen": "x"',
            b'{"prompt": "a", "prompt": "b", "chosen": "x", "rejected": "y"}',
            b'{"prompt": [{"role": "user", "role": "system", "content": "a"}]}',
            b"[" * 50_000,
            b'{"a":' * 50_000,
            b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b', "chosen": "x", "rejected": "y"}',
            b'{"prompt": [{"role": ' + b"[" * 700 + b"]" * 700 + b', "content": "x"}], '
            b'"chosen": "x", "rejected": "y"}',
            b'{"split": ' + b"[" * 900 + b"]" * 900 + b', "prompt": "a", "chosen": "x", '
            b'"rejected": "y"}',
            b"\xef\xbb\xbf{}",
            '{"prompt": "a"}'.encode("utf-16"),
            b'{"prompt": "\xff\xfe", "chosen": "x", "rejected": "y"}',
            b'{"chosen": 1' + b"0" * 6000 + b"}",
            b"null",
            b"NaN",
            b'"text"',
            b"{}",
            b'{"\\ud800": 1, "\\u001b[2J": 2}',
        ]
    ),
)


@st.composite
def good_rows(draw: st.DrawFn, mark: str) -> dict[str, Any]:
    """A row in one of the accepted shapes whose chosen response ends with a mark."""
    prompt = draw(GOOD_TEXTS.filter(str.strip))
    words = "p" + prompt + "?"
    chosen, rejected = f"c {draw(GOOD_TEXTS)} {mark}", f"r {draw(GOOD_TEXTS)}."
    shape = draw(st.sampled_from(["text", "messages", "whole", "transcript"]))
    turns = [{"role": "user", "content": words}]
    if shape == "messages":
        row: dict[str, Any] = {
            "prompt": turns,
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
    elif shape == "whole":
        row = {
            side: [*turns, {"role": "assistant", "content": text}]
            for side, text in (("chosen", chosen), ("rejected", rejected))
        }
    elif shape == "transcript":
        row = {"prompt": HUMAN, "chosen": chosen, "rejected": rejected}
    else:
        row = {"prompt": words, "chosen": chosen, "rejected": rejected}
    optional = {
        "attribute": st.none() | st.sampled_from(["short", "", 7, "\u0627"]),
        "context": st.none() | st.just("Keep it brief."),
        "user": st.none() | st.integers(0, 3) | st.just("u\u0301"),
        "split": st.none() | st.sampled_from(["train", "test"]),
        "margin": st.none() | st.floats(-1e9, 1e9) | st.integers(-9, 9),
        "unknown": ODD_VALUES.filter(lambda value: not _is_huge(value)),
    }
    return row | draw(st.fixed_dictionaries({}, optional=optional))


@st.composite
def bad_lines(draw: st.DrawFn) -> Line:
    """A line that is broken, or a row of which one field at least is no good."""
    if draw(st.booleans()):
        return Line(draw(GARBAGE))
    row: dict[str, Any] = {"prompt": "a", "chosen": "x", "rejected": "y"}
    bad = draw(st.sampled_from(["chosen", "rejected"]))
    for name in draw(st.sets(st.sampled_from(COLUMNS), max_size=3)):
        row[name] = draw(ODD_VALUES)
    row[bad] = draw(st.sampled_from([None, 3, {}, [], "", "\ud800", "\x00", math_nan, "y" * 9]))
    if row[bad] == "y" * 9:
        row["chosen"] = row["rejected"] = "y" * 9
    if draw(st.booleans()):
        del row[draw(st.sampled_from(["chosen", "rejected"]))]
    return Line(_spelled(row))


math_nan = float("nan")


@st.composite
def files(draw: st.DrawFn) -> list[Line]:
    """Good and bad lines and blank ones in any order, with at least one good row."""
    kinds = draw(st.lists(st.sampled_from(["good", "bad", "blank"]), max_size=7))
    lines = []
    for number, kind in enumerate([*kinds, "good"]):
        mark = f"#{number}#"
        if kind == "good":
            lines.append(Line(_spelled(draw(good_rows(mark))), mark))
        elif kind == "bad":
            lines.append(draw(bad_lines()))
        else:
            lines.append(Line(draw(st.sampled_from([b"", b"  ", b"\r"]))))
    return draw(st.permutations(lines))


def check_file(path: Path, lines: Sequence[Line]) -> Account:
    """Read a file of these lines; every row is accounted for and no good one is missing."""
    path.write_bytes(b"\n".join(line.content for line in lines))
    source = open_pairs(DataConfig(train=str(path)))
    pairs = list(source)
    account = source.account
    assert account.rows == sum(1 for line in lines if line.content.strip())
    assert (
        len(pairs) + len(account.refusals)
        == account.rows
        == account.pairs + len({(item.file, item.row) for item in account.refusals})
    )
    found = [pair.chosen.rpartition(" ")[2] for pair in pairs]
    assert found == [line.mark for line in lines if line.mark is not None]
    _require_explained(account, path)
    return account


@st.composite
def rated_files(draw: st.DrawFn) -> list[Line]:
    """Two rated responses a prompt, with bad rows behind, in front of and between them."""
    bad = st.one_of(
        GARBAGE.map(Line),
        st.builds(
            lambda name, value: Line(_spelled(_rated("other", "r", 1, 2) | {name: value})),
            st.sampled_from(RATED),
            st.sampled_from([math_nan, float("inf"), 1e300, 10**400, "5", True, [1], {}]),
        ),
        st.builds(
            lambda name, value: Line(_spelled(_rated("other", "r", 1, 2) | {name: value})),
            st.sampled_from(["prompt", "response"]),
            st.sampled_from([None, 3, {}, [], "", "\ud800", "\x00"]),
        ),
    )
    lines = []
    for number in range(draw(st.integers(1, 4))):
        lines += draw(st.lists(bad, max_size=2))
        for side in "ab":
            row = _rated(f"prompt {number}", side, *draw(st.tuples(*[st.integers(0, 2)] * 2)))
            lines.append(Line(_spelled(row), f"prompt {number}"))
            lines += draw(st.lists(bad, max_size=1))
    return lines


def check_rated_file(path: Path, lines: Sequence[Line]) -> Account:
    """Every comparison of two good responses is a pair or a tie per attribute; others refused."""
    path.write_bytes(b"\n".join(line.content for line in lines))
    source = open_pairs(DataConfig(train=str(path), attributes=list(RATED)))
    try:
        pairs: list[PreferencePair] = list(source)
    except DataError as error:  # ties only
        assert "no usable pair" in str(error)
        return Account()
    account = source.account
    good = sum(line.mark is not None for line in lines)
    assert account.rows == sum(1 for line in lines if line.content.strip())
    assert account.rows == good + len(account.refusals)
    assert len(pairs) + account.ties.total() == good // 2 * len(RATED)
    _require_explained(account, path)
    return account


def _require_explained(account: Account, path: Path) -> None:
    for item in account.refusals:
        assert item.file == str(path) and item.row > 0 and item.reason
        assert len(item.reason) < 1500
        item.reason.encode()  # can be printed


def _rated(prompt: str, response: str, help: int, brief: int) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "help": help, "brief": brief}


def _spelled(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode()


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and abs(value) >= 10**4000


__all__ = ["Line", "check_file", "check_rated_file", "files", "rated_files"]
