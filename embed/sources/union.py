"""Several data sets as one: train on some, test on others, each with its own account."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

from ...configs.data import DataConfig, PartConfig
from .account import Account
from .pair import PreferencePair

# The pairs of one data set, read anew; what is not a pair goes to the account.
Stream = Callable[[Account], Iterator[PreferencePair]]


def settings_of(part: PartConfig, config: DataConfig) -> DataConfig:
    """A part as the configuration of a data set of its own."""
    own = {item.name: getattr(part, item.name) for item in fields(part) if item.name != "use"}
    return replace(config, parts=[], **own)


def joined(
    parts: Sequence[tuple[PartConfig, Stream]], account: Account
) -> Iterator[PreferencePair]:
    """The pairs of every part that are used, in order; the account of each goes into the whole."""
    for part, stream in parts:
        found = Account()
        for pair in stream(found):
            if part.use == "adapt" and pair.split == "train":
                yield replace(pair, split="adapt")
            elif part.use in (pair.split, "both"):
                yield pair
            else:
                found.left_out[f"{pair.split} rows, not used of {part.source}"] += 1
        account.include(part.source, found)
