"""What a sweep varies: a grid of settings, a list of them, or every point of both."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_type_hints

from ..common.errors import ConfigError, require

SWEPT = ("train", "adapt", "views", "baselines", "run.seed")
SEED = "run.seed"
Settings = TypeVar("Settings")


@dataclass(frozen=True)
class SweepConfig:
    """Many settings at once: members are every point of the grid, or of the grid per list entry.

    Attributes:
        grid: Lists of values by key, such as train.num_heads or run.seed; every combination is a
            member.
        points: Settings by key, each entry a member; with a grid, its combinations for each.
        methods: Methods to fit, and those that they are built on.
        memory_gb: GiB for parameters, optimiser states and labelled rows of the members that are
            fitted together; by default half of what is free.
        distributed: Share the members with the other processes of a cluster job, which
            jax.distributed finds.
    """

    grid: dict[str, list[Any]] = field(default_factory=dict)
    points: list[dict[str, Any]] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["micro_stage1", "micro"])
    memory_gb: float | None = None
    distributed: bool = False

    def __post_init__(self) -> None:
        require(bool(self.methods), "sweep.methods", "one or more", self.methods)
        limit = self.memory_gb
        require(limit is None or limit > 0, "sweep.memory_gb", "above 0", limit)
        for key in (*self.grid, *itertools.chain.from_iterable(self.points)):
            fine = any(key == part or key.startswith(f"{part}.") for part in SWEPT)
            require(
                fine,
                "sweep",
                f"keys of {', '.join(SWEPT)}; others change the store or nothing",
                key,
            )
        for key, values in self.grid.items():
            distinct = len({_written(value) for value in values})
            require(
                0 < distinct == len(values),
                f"sweep.grid {key}",
                "one or more, no two equal",
                values,
            )
            clash = any(key in point for point in self.points)
            require(not clash, f"sweep.grid {key}", "a key that no entry of points sets", key)

    def members(self) -> list[dict[str, Any]]:
        """The settings of every member; raises ``ConfigError`` if two are equal."""
        lists = [[(key, value) for value in values] for key, values in self.grid.items()]
        found = [
            {**point, **dict(choice)}
            for point in self.points or [{}]
            for choice in itertools.product(*lists)
        ]
        distinct = {_written(member) for member in found}
        require(len(distinct) == len(found), "sweep.points", "no two equal", self.points)
        return found


def _written(value: Any) -> str:
    """A value as text; a number is the same with and without a decimal point."""
    if isinstance(value, dict):
        return json.dumps({key: _written(inner) for key, inner in value.items()}, sort_keys=True)
    return json.dumps(float(value) if type(value) is int else value)


def with_settings(config: Settings, settings: Mapping[str, Any]) -> Settings:
    """A configuration with dotted keys set. Raises ``ConfigError`` for what it cannot take."""
    return _with_values(config, "", {tuple(key.split(".")): v for key, v in settings.items()})


def _with_values(config: Any, prefix: str, values: Mapping[tuple[str, ...], Any]) -> Any:
    """A section with the values at some paths of fields, all at once: they may need each other."""
    known = [item.name for item in fields(config)]
    hints = get_type_hints(type(config))
    inner: dict[str, dict[tuple[str, ...], Any]] = {}
    changes: dict[str, Any] = {}
    for (name, *rest), value in values.items():
        key = ".".join((prefix + name, *rest))
        if name not in known:
            place = prefix.rstrip(".") or "the configuration"
            raise ConfigError(f"sweep: unknown key {key!r}; {place} has {', '.join(known)}")
        section = is_dataclass(getattr(config, name))
        if rest and not section:
            raise ConfigError(f"sweep: unknown key {key!r}; {prefix}{name} has no keys")
        if rest:
            inner.setdefault(name, {})[tuple(rest)] = value
        elif section:
            kind = type(getattr(config, name)).__name__
            raise ConfigError(f"sweep {key}: expected {kind} by its keys, found {value!r}")
        else:
            changes[name] = _fitting(key, value, hints[name])
    for name, found in inner.items():
        changes[name] = _with_values(getattr(config, name), f"{prefix}{name}.", found)
    return replace(config, **changes)


def _fitting(key: str, value: Any, hint: Any) -> Any:
    """The value in the type of its field."""
    options = get_args(hint) or (hint,)
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
