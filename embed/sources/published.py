"""Read a published data set from the hub, or from local copies with the same schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...common.errors import require
from ...configs.data import DataConfig
from .account import Account, UpstreamRows
from .conversation import RowError
from .corrections import apply_corrections, read_corrections
from .files import SUFFIXES, Row, read_rows
from .hub import HubTable
from .pair import DataError, PreferencePair, Refusal, short_repr
from .upstream import Part, Upstream

# Turns row number and row into pairs; raises ``RowError`` for a row that cannot be used.
ParseRow = Callable[[int, Row], Iterable[PreferencePair]]


@dataclass(frozen=True)
class Files:
    """The tables of a published data set, opened with a configuration and an account.

    Attributes:
        upstream: Location and schema of the data set.
        config: Configuration, which may ask for local copies, another revision or a limit.
        account: Gets the counts, refusals and exclusions of every row that is read.
        variant: Variant of the data set that was asked for.
    """

    upstream: Upstream
    config: DataConfig
    account: Account
    variant: str

    def where(self, part: Part) -> str:
        """The table in words: a local file, or repository, revision and split."""
        if self.config.dir is not None:
            return str(_local_file(Path(self.config.dir), part))
        return self.table(part).where

    def rows(self, name: str) -> Iterator[tuple[int, Row]]:
        """Yield row numbers from 1 and rows of a table, those within ``data.limit``.

        Raises ``DataError`` if the table is missing, cannot be fetched or has unexpected columns.
        """
        part = self.upstream.part(name)
        where = self.where(part)
        wanted = self._wanted(part)
        corrections = read_corrections(self.config.corrections)
        last = 0
        for number, row in apply_corrections(self._all(part), where, corrections):
            last = number
            self.account.rows += 1
            self.account.corrected |= {(where, number)} & corrections.keys()
            if wanted is not None and number not in wanted:
                self.account.left_out["beyond data.limit"] += 1
            elif isinstance(row, Refusal):
                self.account.refusals.append(row)
            else:
                if number == 1:  # once per table
                    self._require_columns(row, part, where)
                yield number, row
        self.account.upstream.append(UpstreamRows(where, part.name, part.rows, last))

    def pairs(self, name: str, parse: ParseRow) -> Iterator[PreferencePair]:
        """Yield the pairs that ``parse`` makes of the rows of a table.

        A row is refused if ``parse`` raises ``RowError``, or any error that a row with an
        unexpected structure causes.
        """
        where = self.where(self.upstream.part(name))
        for number, row in self.rows(name):
            try:
                pairs = list(parse(number, row))
            except RowError as error:
                self.account.refusals.append(Refusal(number, error.field, error.reason, where))
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                cause = f"{type(error).__name__}: {short_repr(str(error))}"
                reason = f"unexpected structure ({cause})"
                self.account.refusals.append(Refusal(number, "", reason, where))
            else:
                yield from (pair if pair.file else replace(pair, file=where) for pair in pairs)

    def leave_out(self, reason: str) -> list[PreferencePair]:
        """Count a row that a rule of the data set excludes; returns no pairs."""
        self.account.left_out[reason] += 1
        return []

    def _all(self, part: Part) -> Iterator[tuple[int, Row | Refusal]]:
        if self.config.dir is not None:
            return read_rows(str(_local_file(Path(self.config.dir), part)))
        return self.table(part).rows()

    def table(self, part: Part) -> HubTable:
        """A table on the hub, at the configured revision."""
        streaming = self.config.streaming
        return HubTable(
            self.upstream.repo,
            self.config.revision or self.upstream.revision,
            part,
            self.upstream.streaming if streaming is None else streaming,
        )

    def _wanted(self, part: Part) -> set[int] | None:
        """Row numbers of the random subset that ``data.limit`` takes; None without a limit."""
        limit = self.config.limit
        if limit is None:
            return None
        count = sum(1 for _ in self._all(part))
        rng = np.random.default_rng(self.config.draw)
        return set((rng.permutation(count)[:limit] + 1).tolist())

    def _require_columns(self, row: Row, part: Part, where: str) -> None:
        """Raise ``DataError`` if a required column is missing or an unknown one is there."""
        needed = self.upstream.columns if part.columns is None else part.columns
        optional = self.upstream.optional
        missing = sorted(needed - row.keys())
        extra = [] if optional is None else sorted(row.keys() - needed - optional)
        remedy = (
            f"this version was made for {self.upstream.repo} at revision "
            f"{self.upstream.revision}: leave data.revision out, or give local copies with the "
            "columns " + ", ".join(sorted(needed)) + " as data.dir"
        )
        if missing:
            others = f"; it has {', '.join(extra)}, which are not known" if extra else ""
            raise DataError(f"{where}: no column {', '.join(missing)}{others}; {remedy}")
        if extra and self.config.extra_columns == "error":
            raise DataError(
                f"{where}: unknown column {', '.join(extra)}, upstream may have changed; {remedy}, "
                "or read on with --data.extra_columns ignore"
            )


@dataclass(frozen=True)
class Published:
    """A published data set as a source.

    Attributes:
        name: Value of ``data.source``.
        summary: One line for lists of data sets.
        upstream: Location, licence and schema.
        variants: Values of ``data.variant``, the default first, with the tables that each reads.
        convert: Streams the pairs of the opened tables.
        contexts: Built-in contexts that are used by default, see ``read_contexts``.
    """

    name: str
    summary: str
    upstream: Upstream
    variants: dict[str, tuple[str, ...]]
    convert: Callable[[Files, DataConfig, Account], Iterator[PreferencePair]]
    contexts: str | None = None


def read(source: Published, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Stream the pairs of a published data set; downloads begin with the first pair.

    Raises at once ``ConfigError`` for an unknown variant, and ``DataError`` for a missing local
    copy.
    """
    files = open_files(source, config, account)
    if config.dir is not None:
        for name in source.variants[files.variant]:
            _local_file(Path(config.dir), source.upstream.part(name))
    return _with_attributes(source, files, config, account)


def open_files(source: Published, config: DataConfig, account: Account) -> Files:
    """Open the tables of a data set. Raises ``ConfigError`` for an unknown variant."""
    variant = config.variant or next(iter(source.variants))
    expected = f"one of {', '.join(source.variants)} for {source.name}"
    require(variant in source.variants, "data.variant", expected, variant)
    return Files(source.upstream, config, account, variant)


def _with_attributes(
    source: Published, files: Files, config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    """The pairs whose attribute is in ``data.attributes``; the others are counted."""
    for pair in source.convert(files, config, account):
        if config.attributes and pair.attribute not in config.attributes:
            account.left_out[f"attribute {pair.attribute} is not in data.attributes"] += 1
        else:
            yield pair


def _local_file(directory: Path, part: Part) -> Path:
    candidates = [directory / (part.name + suffix) for suffix in SUFFIXES]
    existing = [path for path in candidates if path.is_file()]
    if not existing:
        raise DataError(
            f"data.dir: {directory} has no {part.name}{{{','.join(SUFFIXES)}}}; put a copy of the "
            f"hub's split {part.split} there, or leave data.dir out to fetch it"
        )
    return existing[0]
