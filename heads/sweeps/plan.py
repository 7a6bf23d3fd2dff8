"""The members of a sweep, and which of them are fitted together (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...configs.schema import Config
from ...configs.sweep import with_settings
from ..ensemble import by_key, split
from ..training import shared_settings

FLOAT_BYTES = 4
# Copies of its parameters that a member needs: themselves, two moments, gradient, best, new ones.
TRAIN_COPIES, ADAPT_COPIES = 7, 5


@dataclass(frozen=True)
class Member:
    """One setting: its number, what it changes, and the whole configuration."""

    number: int
    settings: Mapping[str, Any]
    config: Config

    @property
    def label(self) -> str:
        """The settings as text, the same for the same settings."""
        return json.dumps(self.settings, sort_keys=True)

    @property
    def stage1(self) -> str:
        """What the methods without labelled rows depend on."""
        config = self.config
        views = (config.views.train_head, config.views.train_router)
        return repr((config.train, config.baselines, views, config.run.seed))

    @property
    def program(self) -> str:
        """What members of one program have in common: everything but scalars and the seed."""
        config = self.config
        adapt = replace(config.adapt, tau=1.0, learning_rate=1.0, weight_decay=0.0)
        return repr((shared_settings(config.train), adapt, config.views, config.baselines))

    def bytes(self, width: int, groups: int, num_heads: int) -> int:
        """Memory that the member needs while it is fitted, with room for ``num_heads`` heads."""
        train, adapt = self.config.train, self.config.adapt
        router = width * (train.router_units if train.router == "mlp" else num_heads)
        drawn = 2 * groups * adapt.budget * width
        numbers = TRAIN_COPIES * (width * num_heads + router)
        return FLOAT_BYTES * (numbers + adapt.draws * (ADAPT_COPIES * router + 2 * drawn))


def make_members(config: Config) -> list[Member]:
    """The members of a configuration's sweep; raises ``ConfigError`` for impossible settings."""
    return [
        make_member(config, number, settings)
        for number, settings in enumerate(config.sweep.members())
    ]


def make_member(config: Config, number: int, settings: Mapping[str, Any]) -> Member:
    """A member of a configuration; raises ``ConfigError`` for impossible settings."""
    return Member(number, settings, with_settings(config, settings))


def largest_heads(members: Sequence[Member]) -> int:
    """K that all members are padded to."""
    return max(member.config.train.num_heads for member in members)


def together(
    members: Sequence[Member],
    width: int,
    groups: int,
    memory: float | None,
    capacity: int | None = None,
) -> list[list[Member]]:
    """Groups of members that one program fits within ``memory`` bytes, of equal size.

    Members that share their stage 1 stand next to each other.
    """
    capacity = largest_heads(members) if capacity is None else capacity
    batches = []
    for indices in by_key([member.program for member in members]):
        ordered = [
            members[indices[n]]
            for same in by_key([members[index].stage1 for index in indices])
            for n in same
        ]
        each = max(member.bytes(width, groups, capacity) for member in ordered)
        batches += [[ordered[n] for n in part] for part in split(len(ordered), each, memory)]
    return batches


def describe(config: Config) -> dict[str, Any]:
    """What the results depend on beside the members' own settings, for a fingerprint."""
    return {
        "methods": config.sweep.methods,
        "views": asdict(config.views),
        "train": asdict(config.train),
        "adapt": asdict(config.adapt),
        "baselines": asdict(config.baselines),
        "evaluate": asdict(config.evaluate),
        "seed": config.run.seed,
    }
