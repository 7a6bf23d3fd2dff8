"""Registered data sources: exact name -> reader. A new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ...configs.schema import SIMULATOR_SOURCE, ConfigError, DataConfig
from . import jsonl, synthetic
from .account import Account
from .contexts import Wishes, read_contexts, with_wish
from .pair import DataError, PreferencePair

# A reader streams the pairs and fills everything in the account but the number of pairs.
Reader = Callable[[DataConfig, Account], Iterator[PreferencePair]]

SOURCES: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "synthetic": synthetic.read,
}


@dataclass
class PairSource:
    """The pairs of one data set, read anew at every iteration.

    ``account`` describes the last complete pass: it is replaced when a pass has read everything,
    so a pass that was abandoned or that failed midway leaves it alone. Passes do not share
    anything; no pair is kept.
    """

    config: DataConfig
    reader: Reader
    wishes: Wishes | None = None
    account: Account = field(default_factory=Account)

    def __iter__(self) -> Iterator[PreferencePair]:
        """Stream the pairs in the order of the data, each with its context.

        Raises ``DataError`` at the end of the pass if it gave no pair, with the first refusals as
        the reason, or if the wishes are for none of its attributes.
        """
        account = Account()
        attributes: set[str | None] = set()
        for pair in self.reader(self.config, account):
            if self.wishes is not None:
                pair = with_wish(pair, self.wishes)
            attributes.add(pair.attribute)
            account.pairs += 1
            yield pair
        self.account = account
        _require_pairs(self.config, account)
        if self.wishes is not None:
            _require_common_names(self.config, attributes, self.wishes)


def open_pairs(config: DataConfig) -> PairSource:
    """The configured source with its contexts, ready to be read as often as needed.

    Raises ``ConfigError`` for a source without text or of an unknown name, ``DataError`` for a
    missing or unreadable file of contexts and for data files that do not exist. The data are not
    read yet.
    """
    if config.source == SIMULATOR_SOURCE:
        raise ConfigError(
            "data.source: the simulator draws vectors, there is no text to check or embed; use "
            "micro-rm run, train, study"
        )
    if config.source not in SOURCES:
        raise ConfigError(
            f"data.source: expected one of {', '.join(sorted(SOURCES))}, found {config.source!r}"
        )
    reader = SOURCES[config.source]
    reader(config, Account())  # its checks; reading would begin with the first pair
    wishes = None if config.contexts is None else read_contexts(config.contexts)
    return PairSource(config, reader, wishes)


def _require_pairs(config: DataConfig, account: Account) -> None:
    if account.pairs:
        return
    first = "; ".join(
        f"row {item.row}: {item.field} {item.reason}" for item in account.refusals[:3]
    )
    raise DataError(
        f"{config.train or config.source}: no usable pair in {account.rows} rows"
        + (f" ({first})" if first else "")
        + (f"; {account.ties.total()} ratings are ties" if account.ties else "")
        + ("" if account.rows else "; the file is empty")
        + "; see the accepted shapes in the README, section 'Your own data'"
    )


def _require_common_names(config: DataConfig, attributes: set[str | None], wishes: Wishes) -> None:
    if not attributes & wishes.keys():
        raise DataError(
            f"{config.contexts}: it has wishes for {', '.join(wishes)}, the data have the "
            f"attributes {', '.join(sorted(map(str, attributes)))}; make the names agree"
        )
