"""A planned embedding job as files: what is to be embedded, in which bins and shards.

The plan is made once and lies in the store while the job runs, so that any number of processes, on
any machine that sees the store, do parts of the same work and a killed one finds its place again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.schema import StoreError, plan_path
from ..cache.writer import shard_path
from ..common.files import write_json
from .tokenize import TOKEN_DTYPE

FORMAT = 1
TOKENS = "tokens.i32"


@dataclass(frozen=True)
class PlanFacts:
    """What is known of a plan without opening its arrays.

    ``sequences`` are distinct, ``stored`` of them were in the store when the plan was made,
    ``failed`` of them are left out: the backbone gave no finite vector for them before.
    ``tokens`` is what the bins compute, ``separate_tokens`` what separate passes over the same
    sequences would. ``first_shard`` is the number of the job's first shard file.
    """

    job: str
    name: str
    pairs: int
    sequences: int
    stored: int
    tokens: int
    separate_tokens: int
    bins: int
    bin_tokens: int
    shards: int
    first_shard: int
    shortened: int
    sharing: bool
    width: int
    failed: int = 0

    @property
    def fill(self) -> float:
        """Share of the bins' room that tokens take."""
        return self.tokens / (self.bins * self.bin_tokens) if self.bins else 1.0


class Plan:
    """A sealed plan, opened for reading.

    Per distinct sequence: ``keys`` and ``lengths``; per conversation ``sequence_of``, its sequence
    or -1. ``columns`` are (N,) conversations per ``view/role``, ``keep`` (N,) the pairs that can be
    embedded, ``pool`` (N,) those that stage 2 may draw from, ``refusals`` the reasons of others.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            raw = json.loads((directory / "plan.json").read_text("utf-8"))
            if raw.pop("format") != FORMAT:
                raise ValueError("another format")
            self.refusals: dict[int, str] = {int(k): v for k, v in raw.pop("refusals").items()}
            self._columns: list[str] = raw.pop("columns")
            self.facts = PlanFacts(**raw)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{directory}: not a plan that this version can go on with ({error}); remove this "
                "directory, the embedded shards stay"
            ) from error

    @cached_property
    def keys(self) -> np.ndarray:
        """(n,) keys of the distinct sequences."""
        return self._array("keys")

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of the distinct sequences."""
        return self._array("lengths")

    @cached_property
    def sequence_of(self) -> np.ndarray:
        """(conversations,) the sequence of each, -1 for a refused one."""
        return self._array("sequence_of")

    @cached_property
    def keep(self) -> np.ndarray:
        """(N,) mask of the pairs whose every sequence can be embedded."""
        return self._array("keep")

    @cached_property
    def pool(self) -> np.ndarray:
        """(N,) mask of the stage-2 pool."""
        return self._array("pool")

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """Per ``view/role`` the (N,) conversations of the pairs."""
        return {name: self._array(f"column{number}") for number, name in enumerate(self._columns)}

    @cached_property
    def tokens(self) -> np.ndarray:
        """All token ids, one conversation behind the other."""
        path = self.directory / TOKENS
        if not path.stat().st_size:
            return np.empty(0, TOKEN_DTYPE)
        return np.memmap(path, TOKEN_DTYPE, mode="r").view(np.ndarray)  # slices cost less

    @cached_property
    def _starts(self) -> np.ndarray:
        return self._array("starts")

    @cached_property
    def _members(self) -> np.ndarray:
        return self._array("members")

    @cached_property
    def _bin_starts(self) -> np.ndarray:
        return self._array("bin_starts")

    @cached_property
    def _bin_tokens(self) -> np.ndarray:
        return self._array("bin_tokens")

    @cached_property
    def _shard_starts(self) -> np.ndarray:
        return self._array("shard_starts")

    def sequence(self, number: int) -> np.ndarray:
        """Token ids of a distinct sequence."""
        start = self._starts[number]
        return self.tokens[start : start + self.lengths[number]]

    def bins(self, shard: int) -> list[tuple[int, np.ndarray]]:
        """The bins of a shard: the tokens of each, and the numbers of its sequences."""
        first, last = self._shard_starts[shard], self._shard_starts[shard + 1]
        return [
            (
                int(self._bin_tokens[place]),
                self._members[self._bin_starts[place] : self._bin_starts[place + 1]],
            )
            for place in range(first, last)
        ]

    def members(self, shard: int) -> np.ndarray:
        """The sequences of a shard, in the order of its rows."""
        first, last = self._bin_starts[self._shard_starts[shard : shard + 2]]
        return self._members[first:last]

    def shard_tokens(self, shard: int) -> int:
        """Tokens that a shard computes."""
        first, last = self._shard_starts[shard], self._shard_starts[shard + 1]
        return int(self._bin_tokens[first:last].sum())

    def is_sealed(self, store: Path, shard: int) -> bool:
        """Whether a shard's file is finished."""
        return shard_path(store, self.facts.first_shard + shard).is_file()

    def pending(self, store: Path) -> list[int]:
        """The shards that are not sealed yet."""
        return [n for n in range(self.facts.shards) if not self.is_sealed(store, n)]

    def _array(self, name: str) -> np.ndarray:
        path = self.directory / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: unreadable ({error}); remove {self.directory}, the embedded shards stay"
            ) from error


def write_plan(
    directory: Path,
    facts: PlanFacts,
    arrays: Mapping[str, np.ndarray],
    columns: Mapping[str, np.ndarray],
    refusals: Mapping[int, str],
) -> None:
    """Write a plan's arrays and facts beside the token file that is there already."""
    for name, values in arrays.items():
        np.save(directory / f"{name}.npy", values, allow_pickle=False)
    for number, values in enumerate(columns.values()):
        np.save(directory / f"column{number}.npy", values, allow_pickle=False)
    content: dict[str, Any] = asdict(facts)
    content |= {"format": FORMAT, "columns": list(columns), "refusals": dict(refusals)}
    write_json(directory / "plan.json", content)


def find_plan(store: Path, job: str) -> Plan | None:
    """The store's plan if it is that of a job, else None."""
    if not (plan_path(store) / "plan.json").is_file():
        return None
    plan = Plan(plan_path(store))
    return plan if plan.facts.job == job else None


def move_plan(made: Path, store: Path) -> None:
    """Give a finished plan its place, all at once."""
    os.rename(made, plan_path(store))


def remove_plan(store: Path) -> None:
    """Remove the plan of a finished or abandoned job, and whatever a killed planner left."""
    # First what makes it a plan: half removed, it must not be taken for a whole one.
    (plan_path(store) / "plan.json").unlink(missing_ok=True)
    for path in store.glob("plan*"):
        shutil.rmtree(path)
