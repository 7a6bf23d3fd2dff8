"""Registry of data sources, and the stream of preference pairs of a configuration.

To add a source, write its reader in a file of its own and add a line to ``SOURCES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from ...common.errors import ConfigError
from ...configs.data import SIMULATOR_SOURCE, UNION_SOURCE, DataConfig
from . import jsonl, published, synthetic
from .account import Account
from .contexts import NO_CONTEXTS, Contexts, read_contexts, with_context
from .corrections import read_corrections
from .hub import HubTable
from .pair import DataError, PreferencePair
from .sets import PUBLISHED
from .union import PairStream, part_config, read_union

# Yields pairs and records everything else in the account. Invalid settings are raised by the call,
# before the first pair is asked for; ``Account.pairs`` is counted by ``PairSource``.
Reader = Callable[[DataConfig, Account], Iterator[PreferencePair]]

SOURCES: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "synthetic": synthetic.read,
    **{name: partial(published.read, source) for name, source in PUBLISHED.items()},
}


@dataclass
class PairSource:
    """The preference pairs of a data set; every iteration reads the data again.

    No pair is kept in memory and passes share no state. ``account`` describes the last complete
    pass: an iteration that is abandoned or fails midway does not change it.
    """

    config: DataConfig
    reader: Reader
    account: Account = field(default_factory=Account)

    def __iter__(self) -> Iterator[PreferencePair]:
        """Yield the pairs in the order of the data, each with its context.

        Raises ``DataError`` at the end of the pass if there was no pair (the message has the first
        refusals), or if a correction refers to a row that the data do not have.
        """
        account = Account()
        for pair in self.reader(self.config, account):
            account.pairs += 1
            yield pair
        self.account = account
        _require_corrections(self.config, account)
        _require_pairs(self.config, account)


def open_pairs(config: DataConfig) -> PairSource:
    """Open the configured source, with its contexts; the data are not read yet.

    Raises:
        ConfigError: The source is unknown, or it is the simulator, which has no text.
        DataError: A data file or the contexts file is missing, or the latter is malformed.
    """
    stream = _stream_of(config)
    return PairSource(config, lambda _config, account: stream(account))


def licences(config: DataConfig) -> dict[str, str]:
    """Licence and terms of use of every published data set that a configuration reads, by name."""
    names = [part.source for part in config.parts] or [config.source]
    sources = [PUBLISHED[name] for name in dict.fromkeys(names) if name in PUBLISHED]
    return {
        source.name: "; ".join(filter(None, (source.upstream.licence, source.upstream.terms)))
        for source in sources
    }


def published_tables(config: DataConfig) -> list[HubTable]:
    """The tables that a configuration reads from the hub; none if ``dir`` gives local copies."""
    if config.source == UNION_SOURCE:
        parts = [part_config(part, config) for part in config.parts]
        return [table for part in parts for table in published_tables(part)]
    if config.source not in PUBLISHED or config.dir is not None:
        return []
    source = PUBLISHED[config.source]
    files = published.open_files(source, config, Account())
    return [files.table(source.upstream.part(name)) for name in source.variants[files.variant]]


def _stream_of(config: DataConfig) -> PairStream:
    """A function that streams the pairs of a data set, with contexts, into an account.

    Settings are checked here, so that mistakes are raised before any data are read.
    """
    if config.source == UNION_SOURCE:
        parts = [(part, _stream_of(part_config(part, config))) for part in config.parts]
        return partial(read_union, parts)
    if config.source == SIMULATOR_SOURCE:
        raise ConfigError(
            "data.source: the simulator draws vectors, there is no text to check or embed; use "
            "micro-rm run, train, study"
        )
    if config.source not in SOURCES:
        names = ", ".join(sorted([*SOURCES, UNION_SOURCE]))
        raise ConfigError(f"data.source: expected one of {names}, found {config.source!r}")
    reader = SOURCES[config.source]
    reader(config, Account())  # checks the settings; the iterator that it returns is not started
    if config.contexts == NO_CONTEXTS:
        return lambda account: (replace(pair, context=None) for pair in reader(config, account))
    source = PUBLISHED.get(config.source)
    name = config.contexts or (source.contexts if source else None)
    if name is None:
        return partial(reader, config)
    contexts = read_contexts(name)
    return lambda account: _with_contexts(reader(config, account), contexts, config)


def _with_contexts(
    pairs: Iterator[PreferencePair], contexts: Contexts, config: DataConfig
) -> Iterator[PreferencePair]:
    """Give contexts to the pairs; ``DataError`` if they fit none of the attributes of the data."""
    attributes: set[str | None] = set()
    for pair in pairs:
        attributes.add(pair.attribute)
        yield with_context(pair, contexts)
    if attributes and not attributes & contexts.keys():
        raise DataError(
            f"{config.contexts or config.source}: it has contexts for {', '.join(contexts)}, "
            f"the data have the attributes {', '.join(sorted(map(str, attributes)))}; make the "
            "names agree"
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
