"""Published data sets from the fixtures: a dozen rows each in the schema of the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from micro_rm.configs.data import DataConfig
from micro_rm.embed.sources import PairSource, open_pairs
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.pair import PreferencePair

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True)
class Loaded:
    """A pass over a data set."""

    pairs: list[PreferencePair]
    account: Account

    @property
    def reasons(self) -> list[str]:
        """Why rows were refused."""
        return [f"{item.row} {item.field}: {item.reason}" for item in self.account.refusals]


@pytest.fixture(scope="session")
def load() -> Callable[..., Loaded]:
    """``load(name, directory=None, **settings of data)``."""

    def read(name: str, directory: Path | None = None, **settings: Any) -> Loaded:
        config = DataConfig(source=name, dir=str(directory or FIXTURES / name), **settings)
        source: PairSource = open_pairs(config)
        return Loaded(list(source), source.account)

    return read
