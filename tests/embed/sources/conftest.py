"""Sources of pairs that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest

from micro_rm.configs.schema import DataConfig
from micro_rm.embed.sources import PairSource
from micro_rm.embed.sources.account import Account
from micro_rm.embed.sources.pair import PreferencePair


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
