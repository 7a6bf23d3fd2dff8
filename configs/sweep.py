"""Settings of a sweep, and how a member's settings are applied to a configuration."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from ..common.errors import ConfigError, require

# Sections and keys that a sweep may vary: those that neither change the store nor where results go.
SWEPT = ("train", "adapt", "views", "baselines", "run.seed")
SEED = "run.seed"
AnyConfig = TypeVar("AnyConfig")


@dataclass(frozen=True)
class SweepConfig:
    """Many settings fitted together; each combination of settings is a member of the sweep.

    Attributes:
        grid: Lists of values by key, such as train.num_heads or run.seed; every combination is a
            member.
        points: List of settings by key, each of them a member; with a grid, every point is combined
            with every combination.
        methods: Methods to fit, besides those that they build on.
        memory_gib: Memory in GiB for parameters, optimiser states and labelled rows of the members
            that are fitted together; by default half of the free memory.
        distributed: Divide the members among the processes of a cluster job, found with
            jax.distributed.
    """

    grid: dict[str, list[Any]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["micro_stage1", "micro"])
    memory_gib: float | None = None
    distributed: bool = False

    def __post_init__(self) -> None:
        require(bool(self.methods), "sweep.methods", "one or more", self.methods)
        limit = self.memory_gib
        require(limit is None or limit > 0, "sweep.memory_gib", "above 0", limit)
        for key in (*self.grid, *itertools.chain.from_iterable(self.points)):
            allowed = any(key == part or key.startswith(f"{part}.") for part in SWEPT)
            require(
                allowed,
                "sweep",
                f"keys of {', '.join(SWEPT)}; others change the store or nothing",
                key,
            )
        for key, values in self.grid.items():
            distinct = len({_canonical(value) for value in values})
            require(
                0 < distinct == len(values),
                f"sweep.grid {key}",
                "one or more, no two equal",
                values,
            )
            clash = any(key in point for point in self.points)
            require(not clash, f"sweep.grid {key}", "a key that no entry of points sets", key)

    def members(self) -> list[dict[str, Any]]:
        """Settings of every member, by dotted key; the last key of the grid varies fastest.

        Raises ``ConfigError`` if two members are equal.

        Example:
            >>> SweepConfig(grid={"train.num_heads": [2, 5], "run.seed": [0, 1]}).members()[:2]
            [{'train.num_heads': 2, 'run.seed': 0}, {'train.num_heads': 2, 'run.seed': 1}]
        """
        lists = [[(key, value) for value in values] for key, values in self.grid.items()]
        members = [
            {**point, **dict(choice)}
            for point in self.points or [{}]
            for choice in itertools.product(*lists)
        ]
        distinct = {_canonical(member) for member in members}
        require(len(distinct) == len(members), "sweep.points", "no two equal", self.points)
        return members


def _canonical(value: Any) -> str:
    """The same text for equal values: 1 and 1.0 are equal, and so are keys in any order."""
    if isinstance(value, dict):
        return json.dumps({key: _canonical(inner) for key, inner in value.items()}, sort_keys=True)
    return json.dumps(float(value) if type(value) is int else value)


def with_settings(config: AnyConfig, settings: Mapping[str, Any]) -> AnyConfig:
    """Return a copy of a configuration with dotted keys set.

    Args:
        config: A configuration dataclass, whole or a section.
        settings: Values by dotted key, such as ``{"train.num_heads": 5}``. They are set at once, so
            only their combination needs to be valid.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
    """
    return _with_values(config, "", {tuple(key.split(".")): v for key, v in settings.items()})


def _with_values(config: Any, prefix: str, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A copy of a section with values set by path of field names; ``prefix`` is for messages."""
    known = [item.name for item in fields(config)]
    hints = get_type_hints(type(config))
    # Values of subsections are collected and set together: a limit may depend on another field.
    nested: dict[str, dict[tuple[str, ...], Any]] = {}
    changes: dict[str, Any] = {}
    for (name, *rest), value in values.items():
        key = ".".join((prefix + name, *rest))
        if name not in known:
            parent = prefix.rstrip(".") or "the configuration"
            raise ConfigError(f"sweep: unknown key {key!r}; {parent} has {', '.join(known)}")
        section = is_dataclass(getattr(config, name))
        if rest and not section:
            raise ConfigError(f"sweep: unknown key {key!r}; {prefix}{name} has no keys")
        if rest:
            nested.setdefault(name, {})[tuple(rest)] = value
        elif section:
            kind = type(getattr(config, name)).__name__
            raise ConfigError(f"sweep {key}: expected {kind} by its keys, found {value!r}")
        else:
            changes[name] = _checked(key, value, hints[name])
    for name, inner in nested.items():
        changes[name] = _with_values(getattr(config, name), f"{prefix}{name}.", inner)
    return replace(config, **changes)


def _checked(key: str, value: Any, hint: Any) -> Any:
    """The value, an integer as a float where the type hint says float; ``ConfigError`` if wrong."""
    options = get_args(hint) or (hint,)  # of a union: its types; of a Literal: its values
    plain = [option for option in options if isinstance(option, type)]
    if value is None and type(None) in plain:
        return value
    if float in plain and isinstance(value, int | float) and not isinstance(value, bool):
        require(math.isfinite(value), f"sweep {key}", "a finite number", value)
        return float(value)
    if value in [option for option in options if isinstance(option, str)]:
        return value
    if any(type(value) is option for option in plain):
        return value
    names = [option.__name__ if isinstance(option, type) else repr(option) for option in options]
    raise ConfigError(f"sweep {key}: expected {' or '.join(names)}, found {value!r}")
