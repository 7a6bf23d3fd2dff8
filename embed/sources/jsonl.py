"""Read local preference files, JSON lines or Parquet, in four common formats.

explicit       {"prompt", "chosen", "rejected"} with text or messages
implicit       {"chosen", "rejected"}: two whole conversations that share all but the last message
transcript     either of these with Human:/Assistant: text instead of messages
ratings        {"prompt", "response", <integer columns>}: two responses make a pair per attribute

Rows are read as a stream, and pairs come in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from ...configs.schema import DataConfig
from .account import Account
from .columns import rating_columns
from .conversation import RowError
from .corrections import apply_corrections, read_corrections
from .files import Row, read_rows, require_data_file
from .pair import DataError, PreferencePair, Refusal
from .ratings import ResponsePairer
from .rows import parse_pair, parse_rated


def read(config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Stream the pairs of the training and the test file; refusals go to ``account``.

    Raises ``DataError`` at once if a file is not given or does not exist, and during the pass if a
    file is damaged or rated responses have no rating column.
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
    pairer: ResponsePairer | None = None  # made for the first rated row, which may never come
    corrections = read_corrections(config.corrections)
    for number, row in apply_corrections(read_rows(path), path, corrections):
        account.rows += 1
        account.corrected |= {(path, number)} & corrections.keys()
        if isinstance(row, Refusal):
            account.refusals.append(row)
            continue
        try:
            if _is_rated(row, config):
                if pairer is None:
                    pairer = ResponsePairer(_attributes(path, config), config, account)
                names = pairer.attributes
                pairs = pairer.add(parse_rated(number, path, row, split, names, config))
            else:
                pairs = [parse_pair(number, path, row, split, config)]
        except RowError as error:
            account.refusals.append(Refusal(number, error.field, error.reason, path))
        else:
            yield from pairs
    if pairer is not None:
        yield from pairer.finish()


def _is_rated(row: Row, config: DataConfig) -> bool:
    """Whether a row is a rated response and not a pair."""
    return config.columns.response in row and config.columns.chosen not in row


def _attributes(path: str, config: DataConfig) -> tuple[str, ...]:
    """Attributes of a file of ratings: as configured, else recognised in a pass over the file."""
    if config.attributes:
        return tuple(config.attributes)
    corrections = read_corrections(config.corrections)
    numbered = apply_corrections(read_rows(path), path, corrections)
    rows = (row for _, row in numbered if not isinstance(row, Refusal))
    rated = (row for row in rows if _is_rated(row, config))
    attributes = rating_columns(rated, set(asdict(config.columns).values()))
    if not attributes:
        raise DataError(
            f"{path}: rows have {config.columns.response!r} but no integer column to compare by; "
            "name the rating columns in data.attributes"
        )
    return attributes
