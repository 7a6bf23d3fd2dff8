"""Local preference files, JSON lines or Parquet, in any of the four shapes that people have.

explicit       {"prompt", "chosen", "rejected"} with text or messages
implicit       {"chosen", "rejected"}: two whole conversations that share all but the last message
transcript     either of these with Human:/Assistant: text instead of messages
ratings        {"prompt", "response", <integer columns>}: two responses make a pair per attribute

Rows become pairs one by one, in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from ...configs.schema import DataConfig
from .account import Account
from .columns import rating_columns
from .conversation import RowError
from .corrections import corrected, read_corrections
from .files import Row, read_rows, require_data_file
from .pair import DataError, PreferencePair, Refusal
from .ratings import Comparison
from .rows import parse_pair, parse_rated


def read(config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Stream the pairs of the training and test file; ``account`` gets what is refused and why.

    Raises ``DataError`` at once for a file that is not given or does not exist, and during the
    pass for a damaged file or ratings without a column to compare by.
    """
    if config.train is None:
        raise DataError(
            "data.train: no training file; set data.train in the config or give --data.train FILE"
        )
    files: list[tuple[str, str | None]] = [(config.train, "train" if config.test else None)]
    if config.test:
        files.append((config.test, "test"))
    for path, _ in files:
        require_data_file(path)
    return _read_files(files, config, account)


def _read_files(
    files: list[tuple[str, str | None]], config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    for path, split in files:
        yield from _read_file(path, split, config, account)


def _read_file(
    path: str, split: str | None, config: DataConfig, account: Account
) -> Iterator[PreferencePair]:
    comparison: Comparison | None = None
    fixes = read_corrections(config.corrections)
    for number, row in corrected(read_rows(path), path, fixes):
        account.rows += 1
        account.corrected |= {(path, number)} & fixes.keys()
        if isinstance(row, Refusal):
            account.refusals.append(row)
            continue
        try:
            if _is_rated(row, config):
                if comparison is None:
                    comparison = Comparison(_attributes(path, config), config, account)
                names = comparison.attributes
                pairs = comparison.add(parse_rated(number, path, row, split, names, config))
            else:
                pairs = [parse_pair(number, path, row, split, config)]
        except RowError as error:
            account.refusals.append(Refusal(number, error.field, error.reason, path))
        else:
            yield from pairs
    if comparison is not None:
        yield from comparison.finish()


def _is_rated(row: Row, config: DataConfig) -> bool:
    return config.columns.response in row and config.columns.chosen not in row


def _attributes(path: str, config: DataConfig) -> tuple[str, ...]:
    """The attributes to compare by; finding them takes a pass of its own over the file."""
    if config.attributes:
        return tuple(config.attributes)
    fixes = read_corrections(config.corrections)
    found = corrected(read_rows(path), path, fixes)
    rows = (row for _, row in found if not isinstance(row, Refusal))
    rated = (row for row in rows if _is_rated(row, config))
    attributes = rating_columns(rated, set(asdict(config.columns).values()))
    if not attributes:
        raise DataError(
            f"{path}: rows have {config.columns.response!r} but no integer column to compare by; "
            "name the rating columns in data.attributes"
        )
    return attributes
