"""A union of data sets, of which some may be for training and others for test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

from ...configs.data import DataConfig, PartConfig
from .account import Account
from .pair import PreferencePair

# Reads the pairs of a data set from the beginning; everything else goes to the account.
PairStream = Callable[[Account], Iterator[PreferencePair]]


def part_config(part: PartConfig, config: DataConfig) -> DataConfig:
    """The configuration that reads one part of a union as a data set of its own."""
    own = {item.name: getattr(part, item.name) for item in fields(part) if item.name != "use"}
    return replace(config, parts=[], **own)


def read_union(
    parts: Sequence[tuple[PartConfig, PairStream]], account: Account
) -> Iterator[PreferencePair]:
    """Stream the used pairs of every part in order; ``account`` gets the accounts of all parts."""
    for part, stream in parts:
        part_account = Account()
        for pair in stream(part_account):
            if part.use == "adapt" and pair.split == "train":
                yield replace(pair, split="adapt")
            elif part.use in (pair.split, "both"):
                yield pair
            else:
                part_account.left_out[f"{pair.split} rows, not used of {part.source}"] += 1
        account.include(part.source, part_account)
