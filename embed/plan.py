"""The plan of an embedding job on disk: what to embed, in which bins and shards.

A plan is made once and stays in the store while the job runs. Any number of processes, on any
machine that sees the store, embed shards of the same plan, and a killed one resumes from it.
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
    """The sizes of a plan, known without opening its arrays.

    Attributes:
        job: Name of the job.
        name: Name of the data set.
        pairs: Pairs that can be embedded.
        sequences: Distinct sequences of these pairs.
        stored: Those in the store when the plan was made.
        tokens: What the bins compute.
        separate_tokens: What separate passes over the same sequences would compute.
        bins: Forward passes.
        bin_tokens: Capacity of a bin.
        shards: Shards.
        first_shard: Number of the job's first shard file.
        shortened: Conversations that were truncated.
        sharing: Whether bins share prefixes.
        width: Size of a vector.
        failed: Sequences left out because the backbone gave no finite vector for them before.
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
        """Fraction of the bins' capacity that is used."""
        return self.tokens / (self.bins * self.bin_tokens) if self.bins else 1.0


class Plan:
    """A finished plan, opened for reading; arrays are memory-mapped when first used.

    Pairs refer to conversations by index (``columns``), and conversations to distinct token
    sequences (``sequence_of``). Sequences are grouped into bins, and bins into shards.

    Attributes:
        directory: The directory of the plan.
        facts: Its sizes.
        refusals: Why a conversation was refused, by its index.

    Raises:
        StoreError: The directory holds no plan of this format.
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
        """(n,) lengths of the distinct sequences, in tokens."""
        return self._array("lengths")

    @cached_property
    def sequence_of(self) -> np.ndarray:
        """(conversations,) index of each one's sequence, -1 for one that is refused or unused."""
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
        """(N,) conversations of the pairs per ``view/role``, -1 where a pair needs none."""
        return {name: self._array(f"column{index}") for index, name in enumerate(self._columns)}

    @cached_property
    def tokens(self) -> np.ndarray:
        """Token ids of all conversations, concatenated."""
        path = self.directory / TOKENS
        if not path.stat().st_size:
            return np.empty(0, TOKEN_DTYPE)
        return np.memmap(path, TOKEN_DTYPE, mode="r").view(np.ndarray)  # cheaper to slice

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

    def sequence(self, index: int) -> np.ndarray:
        """Token ids of a distinct sequence."""
        start = self._starts[index]
        return self.tokens[start : start + self.lengths[index]]

    def bins(self, shard: int) -> list[tuple[int, np.ndarray]]:
        """Of each bin of a shard the tokens that it computes, and the indices of its sequences."""
        first, last = self._shard_starts[shard], self._shard_starts[shard + 1]
        return [
            (
                int(self._bin_tokens[index]),
                self._members[self._bin_starts[index] : self._bin_starts[index + 1]],
            )
            for index in range(first, last)
        ]

    def members(self, shard: int) -> np.ndarray:
        """Indices of a shard's sequences, in the order of its rows."""
        first, last = self._bin_starts[self._shard_starts[shard : shard + 2]]
        return self._members[first:last]

    def shard_tokens(self, shard: int) -> int:
        """Number of tokens that a shard computes."""
        first, last = self._shard_starts[shard], self._shard_starts[shard + 1]
        return int(self._bin_tokens[first:last].sum())

    def is_sealed(self, store: Path, shard: int) -> bool:
        """Whether a shard's file exists; it gets its name only once it is complete."""
        return shard_path(store, self.facts.first_shard + shard).is_file()

    def pending(self, store: Path) -> list[int]:
        """The shards that are not sealed yet."""
        return [shard for shard in range(self.facts.shards) if not self.is_sealed(store, shard)]

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
    """Write a plan into the directory that already holds its token file.

    ``plan.json``, which marks a complete plan, is written last.
    """
    for name, values in arrays.items():
        np.save(directory / f"{name}.npy", values, allow_pickle=False)
    for index, values in enumerate(columns.values()):
        np.save(directory / f"column{index}.npy", values, allow_pickle=False)
    content: dict[str, Any] = asdict(facts)
    content |= {"format": FORMAT, "columns": list(columns), "refusals": dict(refusals)}
    write_json(directory / "plan.json", content)


def find_plan(store: Path, job: str) -> Plan | None:
    """The store's plan if it belongs to this job, else None."""
    if not (plan_path(store) / "plan.json").is_file():
        return None
    plan = Plan(plan_path(store))
    return plan if plan.facts.job == job else None


def publish_plan(directory: Path, store: Path) -> None:
    """Move a complete plan to its final path, atomically."""
    os.rename(directory, plan_path(store))


def remove_plan(store: Path) -> None:
    """Remove the plan of a finished or abandoned job, and the leftovers of killed planners."""
    # First the file that marks a complete plan: a half-removed one must not pass for complete.
    (plan_path(store) / "plan.json").unlink(missing_ok=True)
    for path in store.glob("plan*"):
        shutil.rmtree(path)
