"""Rows of a published data set, from the hub or from local copies with the same schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...common.errors import require
from ...configs.data import DataConfig
from .account import Account, UpstreamRows
from .conversation import RowError
from .corrections import corrected, read_corrections
from .files import SUFFIXES, Row, read_rows
from .hub import HubTable
from .pair import DataError, PreferencePair, Refusal, shown
from .upstream import Part, Upstream

Parse = Callable[[int, Row], Iterable[PreferencePair]]


@dataclass(frozen=True)
class Files:
    """The tables of a data set, and the account that what is read of them goes to.

    Whatever cannot be used is a refusal with its row; ``Part`` names the table.
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
        """Row numbers from 1 and rows of a part whose columns are as expected.

        Raises ``DataError`` for a table that is missing, cannot be fetched or has other columns.
        """
        part = self.upstream.part(name)
        where = self.where(part)
        wanted = self._wanted(part)
        fixes = read_corrections(self.config.corrections)
        found = 0
        for number, row in corrected(self._all(part), where, fixes):
            found = number
            self.account.rows += 1
            self.account.corrected |= {(where, number)} & fixes.keys()
            if wanted is not None and number not in wanted:
                self.account.left_out["beyond data.limit"] += 1
            elif isinstance(row, Refusal):
                self.account.refusals.append(row)
            else:
                if number == 1:
                    self._require_columns(row, part, where)
                yield number, row
        self.account.upstream.append(UpstreamRows(where, part.name, part.rows, found))

    def pairs(self, name: str, parse: Parse) -> Iterator[PreferencePair]:
        """What ``parse`` makes of every row of a part.

        A row that it raises ``RowError`` for, or that is not built as it expects, is refused.
        """
        where = self.where(self.upstream.part(name))
        for number, row in self.rows(name):
            try:
                made = list(parse(number, row))
            except RowError as error:
                self.account.refusals.append(Refusal(number, error.field, error.reason, where))
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                found = f"{type(error).__name__}: {shown(str(error))}"
                reason = f"built otherwise than expected ({found})"
                self.account.refusals.append(Refusal(number, "", reason, where))
            else:
                yield from (pair if pair.file else replace(pair, file=where) for pair in made)

    def leave_out(self, reason: str) -> list[PreferencePair]:
        """Count a row that a rule of the data set leaves out; the empty list, to be returned."""
        self.account.left_out[reason] += 1
        return []

    def _all(self, part: Part) -> Iterator[tuple[int, Row | Refusal]]:
        if self.config.dir is not None:
            return read_rows(str(_local_file(Path(self.config.dir), part)))
        return self.table(part).rows()

    def table(self, part: Part) -> HubTable:
        """The table on the hub."""
        streaming = self.config.streaming
        return HubTable(
            self.upstream.repo,
            self.config.revision or self.upstream.revision,
            part,
            self.upstream.streaming if streaming is None else streaming,
        )

    def _wanted(self, part: Part) -> set[int] | None:
        """Numbers of the rows that a limit leaves, None for all of them."""
        limit = self.config.limit
        if limit is None:
            return None
        count = sum(1 for _ in self._all(part))
        rng = np.random.default_rng(self.config.draw)
        return set((rng.permutation(count)[:limit] + 1).tolist())

    def _require_columns(self, row: Row, part: Part, where: str) -> None:
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
    """A source that reads a published data set.

    ``convert`` turns rows into pairs. ``variants`` are the values of ``data.variant``, the default
    first, with the parts that each reads. ``contexts`` names the wishes that come with it.
    """

    name: str
    summary: str
    upstream: Upstream
    variants: dict[str, tuple[str, ...]]
    convert: Callable[[Files, DataConfig, Account], Iterator[PreferencePair]]
    contexts: str | None = None


def read(source: Published, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Stream the pairs of a published data set.

    Raises ``ConfigError`` at once for a variant that it does not have and ``DataError`` for local
    copies that are not there; fetching begins with the first pair.
    """
    files = open_files(source, config, account)
    if config.dir is not None:
        for name in source.variants[files.variant]:
            _local_file(Path(config.dir), source.upstream.part(name))
    return _named(source, files, config, account)


def open_files(source: Published, config: DataConfig, account: Account) -> Files:
    """The tables of a data set in the variant asked for; ``ConfigError`` if there is none such."""
    variant = config.variant or next(iter(source.variants))
    expected = f"one of {', '.join(source.variants)} for {source.name}"
    require(variant in source.variants, "data.variant", expected, variant)
    return Files(source.upstream, config, account, variant)


def _named(
    source: Published, files: Files, config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    for pair in source.convert(files, config, account):
        if config.attributes and pair.attribute not in config.attributes:
            account.left_out[f"attribute {pair.attribute} is not in data.attributes"] += 1
        else:
            yield pair


def _local_file(directory: Path, part: Part) -> Path:
    found = [directory / (part.name + suffix) for suffix in SUFFIXES]
    existing = [path for path in found if path.is_file()]
    if not existing:
        raise DataError(
            f"data.dir: {directory} has no {part.name}{{{','.join(SUFFIXES)}}}; put a copy of the "
            f"hub's split {part.split} there, or leave data.dir out to fetch it"
        )
    return existing[0]
