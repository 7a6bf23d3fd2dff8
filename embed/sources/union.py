"""Several data sets as one: train on some, test on others, each with its own account."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...configs.data import DataConfig, PartConfig
from .account import Account
from .pair import PreferencePair

# Opens one data set; given by the registry, which this file cannot import.
Open = Callable[[DataConfig, Account], Iterator[PreferencePair]]


def read(config: DataConfig, account: Account, opened: Open) -> Iterator[PreferencePair]:
    """The pairs of every part that are used, in order; raises what the parts raise."""
    parts = [(part, Account()) for part in config.parts]
    streams = [(part, found, opened(settings_of(part, config), found)) for part, found in parts]
    return _joined(streams, account)


def settings_of(part: PartConfig, config: DataConfig) -> DataConfig:
    """A part as the configuration of a data set of its own."""
    return replace(
        config,
        parts=[],
        source=part.source,
        train=part.train,
        test=part.test,
        dir=part.dir,
        revision=part.revision,
        variant=part.variant,
        draw=part.draw,
        limit=part.limit,
        contexts=part.contexts,
        attributes=part.attributes,
    )


def _joined(
    streams: list[tuple[PartConfig, Account, Iterator[PreferencePair]]], account: Account
) -> Iterator[PreferencePair]:
    for part, found, pairs in streams:
        for pair in pairs:
            if part.use == "adapt" and pair.split == "train":
                pair = replace(pair, split="adapt")
            elif part.use not in (pair.split, "both"):
                found.left_out[f"{pair.split} rows, not used of {part.source}"] += 1
                continue
            found.pairs += 1
            yield pair
        account.include(f"{part.source} ({part.use})", found)
