"""Limits of the settings of compared methods: each refused by its name, each default inside."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from micro_rm.common.errors import ConfigError, require
from micro_rm.configs.baselines import BaselinesConfig

COUNTS = ["maxmin.chunk", "maxmin.rounds", "maxmin.epochs", "armo.hidden", "armo.steps"]
COUNTS += ["armo.batch_size", "drm.components", "vpl.latent", "vpl.hidden", "vpl.context"]
COUNTS += ["vpl.epochs", "vpl.batch_size", "pal.prototypes", "pal.hidden", "pal.latent"]
COUNTS += ["pal.epochs", "pal.batch_size"]
POSITIVE = ["maxmin.learning_rate", "hyre.temperature", "armo.temperature", "armo.learning_rate"]
POSITIVE += ["drm.temperature", "dpl.init_scale", "vpl.learning_rate", "pal.learning_rate"]
POSITIVE += ["pal.user_learning_rate"]
NOT_NEGATIVE = ["shared_base.prior_scale", "shared_base.anchor", "hyre.rows", "drm.rows"]
NOT_NEGATIVE += ["dpl.variance_penalty", "dpl.entropy_bonus", "vpl.kl_weight", "vpl.weight_decay"]
NOT_NEGATIVE += ["pal.weight_decay"]


def change(key: str, value: Any) -> None:
    """Set one key of one section, as a file or a flag does."""
    section, name = key.split(".")
    replace(getattr(BaselinesConfig(), section), **{name: value})


@pytest.mark.parametrize(
    ("key", "good", "bad", "expected"),
    [
        *((key, 1, 0, "1 or more") for key in COUNTS),
        *((key, 1e-9, 0.0, "above 0") for key in POSITIVE),
        *((key, 0, -1, "0 or more") for key in NOT_NEGATIVE),
        ("dpl.atoms", 2, 1, "2 or more"),
        ("armo.dropout", 0.99, 1.0, "in [0, 1)"),
        ("armo.dropout", 0.0, -0.1, "in [0, 1)"),
        ("armo.max_correlation", 1.0, 1.1, "in [0, 1]"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_full_name(
    key: str, good: float, bad: float, expected: str
) -> None:
    change(key, good)
    with pytest.raises(ConfigError) as caught:
        change(key, bad)
    assert str(caught.value) == f"baselines.{key}: expected {expected}, found {bad!r}"


def test_every_number_has_a_limit() -> None:
    """What is not listed above is a choice of words, a name or a switch."""
    limited = {*COUNTS, *POSITIVE, *NOT_NEGATIVE}
    limited |= {"dpl.atoms", "armo.dropout", "armo.max_correlation"}
    config = BaselinesConfig()
    for part in fields(config):
        section = getattr(config, part.name)
        for item in fields(section):
            value = getattr(section, item.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert f"{part.name}.{item.name}" in limited


def test_what_may_be_left_open_may_be_null() -> None:
    for key in ("hyre.rows", "drm.rows", "armo.verbosity"):
        change(key, None)


def test_a_requirement_names_key_expectation_and_finding() -> None:
    require(True, "a.b", "anything", 3)
    with pytest.raises(ConfigError, match=r"^a\.b: expected more, found 'less'$"):
        require(False, "a.b", "more", "less")
