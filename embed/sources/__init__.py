"""Registered data sources: exact name -> reader. A new source is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from ...common.errors import ConfigError
from ...configs.data import SIMULATOR_SOURCE, UNION_SOURCE, DataConfig
from . import jsonl, published, synthetic
from .account import Account
from .contexts import NO_WISHES, Wishes, read_contexts, with_wish
from .corrections import read_corrections
from .hub import HubTable
from .pair import DataError, PreferencePair
from .sets import PUBLISHED
from .union import Stream, joined, settings_of

# A reader streams the pairs and fills everything in the account but the number of pairs.
Reader = Callable[[DataConfig, Account], Iterator[PreferencePair]]

SOURCES: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "synthetic": synthetic.read,
    **{name: partial(published.read, source) for name, source in PUBLISHED.items()},
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
    account: Account = field(default_factory=Account)

    def __iter__(self) -> Iterator[PreferencePair]:
        """Stream the pairs in the order of the data, each with its context.

        Raises ``DataError`` at the end of the pass if it gave no pair, with the first refusals as
        the reason.
        """
        account = Account()
        for pair in self.reader(self.config, account):
            account.pairs += 1
            yield pair
        self.account = account
        _require_corrections(self.config, account)
        _require_pairs(self.config, account)


def open_pairs(config: DataConfig) -> PairSource:
    """The configured source with its contexts, ready to be read as often as needed.

    Raises ``ConfigError`` for a source without text or of an unknown name, ``DataError`` for a
    missing or unreadable file of contexts and for data files that do not exist. The data are not
    read yet.
    """
    stream = _stream_of(config)
    return PairSource(config, lambda _config, account: stream(account))


def licences(config: DataConfig) -> dict[str, str]:
    """Licence and terms of every published data set that a configuration reads."""
    names = [part.source for part in config.parts] or [config.source]
    known = [PUBLISHED[name] for name in dict.fromkeys(names) if name in PUBLISHED]
    return {
        source.name: "; ".join(filter(None, (source.upstream.licence, source.upstream.terms)))
        for source in known
    }


def published_tables(config: DataConfig) -> list[HubTable]:
    """The tables that a data set reads from the hub; none where local copies are given."""
    if config.source == UNION_SOURCE:
        parts = [settings_of(part, config) for part in config.parts]
        return [table for part in parts for table in published_tables(part)]
    if config.source not in PUBLISHED or config.dir is not None:
        return []
    source = PUBLISHED[config.source]
    files = published.open_files(source, config, Account())
    return [files.table(source.upstream.part(name)) for name in source.variants[files.variant]]


def _stream_of(config: DataConfig) -> Stream:
    """The pairs of a data set with their wishes; whatever is wrong with its settings is raised."""
    if config.source == UNION_SOURCE:
        parts = [(part, _stream_of(settings_of(part, config))) for part in config.parts]
        return partial(joined, parts)
    if config.source == SIMULATOR_SOURCE:
        raise ConfigError(
            "data.source: the simulator draws vectors, there is no text to check or embed; use "
            "micro-rm run, train, study"
        )
    if config.source not in SOURCES:
        names = ", ".join(sorted([*SOURCES, UNION_SOURCE]))
        raise ConfigError(f"data.source: expected one of {names}, found {config.source!r}")
    reader = SOURCES[config.source]
    reader(config, Account())  # its checks; reading would begin with the first pair
    if config.contexts == NO_WISHES:
        return lambda account: (replace(pair, context=None) for pair in reader(config, account))
    known = PUBLISHED.get(config.source)
    name = config.contexts or (known.contexts if known else None)
    if name is None:
        return partial(reader, config)
    wishes = read_contexts(name)
    return lambda account: _wished(reader(config, account), wishes, config)


def _wished(
    pairs: Iterator[PreferencePair], wishes: Wishes, config: DataConfig
) -> Iterator[PreferencePair]:
    attributes: set[str | None] = set()
    for pair in pairs:
        attributes.add(pair.attribute)
        yield with_wish(pair, wishes)
    if attributes and not attributes & wishes.keys():
        raise DataError(
            f"{config.contexts or config.source}: it has wishes for {', '.join(wishes)}, the data "
            f"have the attributes {', '.join(sorted(map(str, attributes)))}; make the names agree"
        )


def _require_corrections(config: DataConfig, account: Account) -> None:
    unused = sorted(read_corrections(config.corrections).keys() - account.corrected)
    if unused:
        file, row = unused[0]
        raise DataError(
            f"{config.corrections}: {len(unused)} corrections are of rows that this data set does "
            f"not have, such as row {row} of {file}; read the same files by the same names"
        )


def _require_pairs(config: DataConfig, account: Account) -> None:
    if account.pairs:
        return
    first = "; ".join(
        f"row {item.row}: {item.field} {item.reason}" for item in account.refusals[:3]
    )
    left_out = ", ".join(f"{number} {reason}" for reason, number in account.left_out.items())
    raise DataError(
        f"{config.train or config.source}: no usable pair in {account.rows} rows"
        + (f" ({first})" if first else "")
        + (f"; {account.ties.total()} ratings are ties" if account.ties else "")
        + (f"; left out: {left_out}" if left_out else "")
        + ("" if account.rows else "; the file is empty")
        + "; see the accepted shapes in the README, section 'Your own data'"
    )
