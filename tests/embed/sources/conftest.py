"""Sources of pairs that a test makes up, and passes over small files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import PairSource, open_pairs
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.pair import PreferencePair

Row = dict[str, Any]
WriteRows = Callable[..., str]
GOOD: Row = {"prompt": "a", "chosen": "x", "rejected": "y"}


class Loaded(NamedTuple):
    """The pairs of one pass and its account."""

    pairs: list[PreferencePair]
    account: Account


Load = Callable[..., Loaded]


def turn(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


@pytest.fixture
def open_rows(tmp_path: Path, write_rows: WriteRows) -> Callable[..., PairSource]:
    """``open_rows(rows, suffix, test=rows, **settings)``: a source over files of rows."""

    def make(
        rows: Sequence[Row | str],
        suffix: str = ".jsonl",
        test: Sequence[Row | str] | None = None,
        **settings: Any,
    ) -> PairSource:
        settings["train"] = write_rows(tmp_path / f"train{suffix}", rows)
        if test is not None:
            settings["test"] = write_rows(tmp_path / f"test{suffix}", test)
        return open_pairs(DataConfig(**settings))

    return make


@pytest.fixture
def load(open_rows: Callable[..., PairSource]) -> Load:
    """``load(rows, ...)`` as ``open_rows``: what one pass gives."""

    def run(*arguments: Any, **settings: Any) -> Loaded:
        source = open_rows(*arguments, **settings)
        return Loaded(list(source), source.account)

    return run


@pytest.fixture(scope="session")
def source_of() -> Callable[..., PairSource]:
    """``source_of(pairs, **account)``: a source that yields these pairs and fills the account."""

    def make(pairs: Sequence[PreferencePair], **facts: Any) -> PairSource:
        def read(config: DataConfig, account: Account) -> Iterator[PreferencePair]:
            for field in fields(account):
                if field.name in facts:
                    setattr(account, field.name, facts[field.name])
            yield from pairs

        return PairSource(DataConfig(source="made up"), read)

    return make
