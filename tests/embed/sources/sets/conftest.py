"""Published data sets from the fixtures: a dozen rows each in the schema of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import open_pairs, published
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.sets import PUBLISHED

from ..conftest import Loaded

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="session")
def load() -> Callable[..., Loaded]:
    """``load(name, directory=None, **settings of data)``."""

    def read(name: str, directory: Path | None = None, **settings: Any) -> Loaded:
        config = DataConfig(source=name, dir=str(directory or FIXTURES / name), **settings)
        source = open_pairs(config)
        return Loaded(list(source), source.account)

    return read


@pytest.fixture
def read_rows(tmp_path: Path) -> Callable[..., Loaded]:
    """``read_rows(name, {part: rows}, **settings of data)``: parts without rows are empty."""

    def read(name: str, rows: dict[str, list[Any]], **settings: Any) -> Loaded:
        source = PUBLISHED[name]
        for part in source.upstream.parts:
            lines = "".join(json.dumps(row) + "\n" for row in rows.get(part.name, []))
            (tmp_path / f"{part.name}.jsonl").write_text(lines, "utf-8")
        account = Account()
        config = DataConfig(source=name, dir=str(tmp_path), **settings)
        return Loaded(list(published.read(source, config, account)), account)

    return read
