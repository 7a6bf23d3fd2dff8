"""The identity of a preference pair is a hash of its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.embed.sources.pair import Message, PreferencePair, content_id, hash_fraction

MakePair = Callable[..., PreferencePair]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": (Message("user", "other"),)},
        {"prompt": (Message("system", "How far is the moon?"),)},
        {"attribute": "brief"},
        {"context": "be brief"},
        {"user": "ann"},
        {"chosen": "Very far.", "rejected": "384,400 km."},
        {"rejected": "other"},
    ],
)
def test_what_a_pair_says_is_its_identity(changes: dict[str, Any], make_pair: MakePair) -> None:
    pair = make_pair()
    other = replace(pair, **changes)
    assert other.pair_id != pair.pair_id
    assert (other.prompt_id != pair.prompt_id) == ("prompt" in changes)


def test_where_a_pair_stands_and_its_grades_are_not_its_identity(make_pair: MakePair) -> None:
    place = {"row": 7, "split": "test", "source": "elsewhere", "file": "f"}
    grades = {"margin": 2.0, "ratings": (("help", 4.0, 2.0),)}
    assert replace(make_pair(), **place, **grades).pair_id == make_pair().pair_id


def test_ids_do_not_change_between_versions(make_pair: MakePair) -> None:
    """Stored tables, pools and splits depend on these very digits."""
    pair = make_pair("p", "c", "r", attribute="a")
    assert pair.pair_id == "8739247dc6c7283e3b2433a7cd30a44c"
    assert pair.prompt_id == "898b9cd975f0d0416965a8704d43b5a9"
    assert hash_fraction("split", 1) == pytest.approx(0.6637397989282183, abs=1e-15)


def test_parts_do_not_run_into_each_other() -> None:
    assert len({content_id("ab", "c"), content_id("a", "bc"), content_id("abc")}) == 3
    assert content_id(None) != content_id("")
    assert content_id("1") != content_id(1)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_has_an_id_of_32_hex_digits(text: str) -> None:
    digest = content_id(text)
    assert len(digest) == 32 and int(digest, 16) >= 0


def test_hash_fractions_are_spread_evenly() -> None:
    values = np.array([hash_fraction("x", number) for number in range(4000)])
    assert ((values >= 0) & (values < 1)).all()
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert (abs(counts - 400) < 100).all()
