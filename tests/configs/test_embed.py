"""The settings of the embedding pass: which part of the work, in which sizes, on what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import EmbedConfig


@pytest.mark.parametrize(
    ("shards", "part"), [("0/1", (0, 1)), ("3/4", (3, 4)), ("11/100", (11, 100))]
)
def test_a_part_is_two_numbers(shards: str, part: tuple[int, int]) -> None:
    assert EmbedConfig(shards=shards).part == part


@pytest.mark.parametrize("shards", ["3/3", "4/3", "a/2", "1", "1/", "0/0", "-1/2", "0/1/2"])
def test_a_part_that_does_not_exist_is_refused_with_the_form_of_those_that_do(shards: str) -> None:
    with pytest.raises(ConfigError, match=r"embed\.shards: expected i/N with i from 0 to N-1"):
        EmbedConfig(shards=shards)


@pytest.mark.parametrize("name", ["bin_tokens", "shard_tokens", "actors"])
def test_sizes_are_one_or_more(name: str) -> None:
    changes: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=rf"embed\.{name}: expected 1 or more, found 0"):
        replace(EmbedConfig(), **changes)
    assert getattr(replace(EmbedConfig(), **{name: 1}), name) == 1


def test_ray_deals_the_shards_itself_and_the_machine_decides_the_sizes() -> None:
    with pytest.raises(ConfigError, match=r"embed\.shards: expected 0/1 with engine ray"):
        EmbedConfig(engine="ray", shards="0/2")
    assert EmbedConfig(engine="ray").part == (0, 1)
    assert (EmbedConfig().bin_tokens, EmbedConfig().actors) == (None, None)
