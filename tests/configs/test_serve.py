"""Limits of the service: the smallest value is allowed, the one below is refused."""

from __future__ import annotations

import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.serve import ServeConfig

AT_LEAST_ONE = [
    "batch_texts",
    "batch_characters",
    "queue",
    "body_bytes",
    "text_characters",
    "responses",
    "cached_texts",
]


@pytest.mark.parametrize("key", AT_LEAST_ONE)
def test_one_is_allowed_and_zero_is_not(key: str) -> None:
    assert getattr(ServeConfig(**{key: 1}), key) == 1
    with pytest.raises(ConfigError, match=rf"serve\.{key}: expected 1 or more, found 0"):
        ServeConfig(**{key: 0})


def test_ports_and_waits_at_their_limits() -> None:
    assert ServeConfig(port=0).port == 0 and ServeConfig(port=65535).port == 65535
    assert ServeConfig(wait_ms=0).wait_ms == 0
    for wrong in ({"port": -1}, {"port": 65536}, {"wait_ms": -1}, {"timeout_s": 0}):
        with pytest.raises(ConfigError):
            ServeConfig(**wrong)
