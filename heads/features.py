"""Rows of a store to arrays for training: reward differences and router inputs, in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ..cache.pairs import NO_ROW, PairTable
from ..cache.schema import StoreError, first_not_finite
from ..common.errors import UserError
from .rows import Rows

# A dimension that varies less than this share of the median one carries rounding, not meaning:
# all-MiniLM-L6-v2 has three of them.
DEAD_DIMENSION = 1e-3
GIB = 2**30
# Bytes per number of a streamed block: two blocks in float32, and the vectors of the next one.
BLOCK_BYTES = 24


class FeatureMemoryError(UserError):
    """The rows do not fit into the memory allowed and the method cannot stream them."""


@dataclass(frozen=True)
class Scaler:
    """Division per dimension; the identity for raw features.

    Statistics come from the training rows in their stage-1 view. Differences are divided by their
    root mean square, without centring: a mean difference is what a reward is made of.
    """

    delta_scale_D: np.ndarray
    router_mean_D: np.ndarray
    router_scale_D: np.ndarray

    @classmethod
    def identity(cls, width: int) -> Scaler:
        """A scaler that changes nothing."""
        ones = np.ones(width, np.float32)
        return cls(ones, np.zeros(width, np.float32), ones)

    @classmethod
    def fit(cls, delta_NxD: np.ndarray, router_input_NxD: np.ndarray) -> Scaler:
        """Statistics of the given rows; dimensions that (almost) never vary are not blown up."""
        return cls.fit_blocks([(delta_NxD, router_input_NxD)])

    @classmethod
    def fit_blocks(cls, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Scaler:
        """``fit`` over rows that come in blocks, at least one; sums are float64."""
        count: int = 0
        squares_D = total_D = around_D = first_D = np.zeros(0)
        for delta_nxD, router_nxD in blocks:
            if not count:
                # Sums are taken about the first row, so that their differences do not cancel.
                first_D = router_nxD[0].astype(np.float64)
                squares_D = total_D = around_D = np.zeros(first_D.size)
            router_nxD = router_nxD.astype(np.float64) - first_D
            count += len(router_nxD)
            squares_D = squares_D + np.sum(delta_nxD.astype(np.float64) ** 2, axis=0)
            total_D = total_D + router_nxD.sum(axis=0)
            around_D = around_D + np.sum(router_nxD**2, axis=0)
        mean_D = total_D / count

        def positive(scale_D: np.ndarray) -> np.ndarray:
            dead_D = scale_D <= DEAD_DIMENSION * np.median(scale_D)
            return np.where(dead_D, 1.0, scale_D).astype(np.float32)

        return cls(
            delta_scale_D=positive(np.sqrt(squares_D / count)),
            router_mean_D=(first_D + mean_D).astype(np.float32),
            router_scale_D=positive(np.sqrt(np.maximum(around_D / count - mean_D**2, 0.0))),
        )

    def raw_router_input(self, router_input_NxD: np.ndarray) -> np.ndarray:
        """Router inputs as they were before ``apply``, float64."""
        return router_input_NxD.astype(np.float64) * self.router_scale_D + self.router_mean_D

    def apply(self, chosen: np.ndarray, rejected: np.ndarray, prompt: np.ndarray) -> Rows:
        """Scaled rows on the device, of (N, D) vectors in the type that they are stored in."""
        return _derive(chosen, rejected, prompt, *astuple(self))


@jax.jit
def _derive(
    chosen_NxD: Array,
    rejected_NxD: Array,
    prompt_NxD: Array,
    delta_scale_D: Array,
    router_mean_D: Array,
    router_scale_D: Array,
) -> Rows:
    """What is trained on: 16 bits become 32 here, on the device, and nowhere before."""
    chosen, rejected, prompt = (
        vectors.astype(jnp.float32) for vectors in (chosen_NxD, rejected_NxD, prompt_NxD)
    )
    return Rows(
        (chosen - rejected) / delta_scale_D[None],
        (prompt - router_mean_D[None]) / router_scale_D[None],
    )


class VectorSource(Protocol):
    """Where vectors are read from: a store, or anything that answers like one."""

    path: Path

    @property
    def width(self) -> int:
        """Numbers per vector."""
        ...

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of global rows, in the order asked for: (len(rows), width)."""
        ...

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The same without keeping what was read around them in memory."""
        ...


@dataclass(frozen=True)
class Features:
    """A pair table, the store that its rows point into, and the backbone's own reward head."""

    store: VectorSource
    table: PairTable
    native_head_D: np.ndarray | None = None

    def arrays(self, rows_N: np.ndarray, head: str, router: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) differences in the head view and (N, D) prompts in the router view, float32."""
        chosen, rejected = self.sides(rows_N, head)
        return chosen - rejected, self.stored(rows_N, router, "prompt").astype(np.float32)

    def sides(self, rows_N: np.ndarray, head: str) -> tuple[np.ndarray, np.ndarray]:
        """Both responses of every row in a view: two (N, D) arrays, float32."""
        chosen, rejected = (self.stored(rows_N, head, role) for role in ("chosen", "rejected"))
        return chosen.astype(np.float32), rejected.astype(np.float32)

    def stored(
        self, rows_N: np.ndarray, view: str, role: str, *, streamed: bool = False
    ) -> np.ndarray:
        """(N, D) vectors of a role in a view, in the type that they are stored in.

        Raises ``StoreError`` for one that is not finite.
        """
        read = self.store.gather if streamed else self.store.vectors
        index_N = self.store_rows(rows_N, view, role)
        vectors_NxD = read(index_N)
        bad = first_not_finite(vectors_NxD)
        if bad is not None:
            raise StoreError(
                f"{self.store.path}: row {index_N[bad]} holds NaN or infinity; micro-rm verify "
                f"{self.store.path} says what to do"
            )
        return vectors_NxD

    def has(self, rows_N: np.ndarray, view: str) -> np.ndarray:
        """(N,) mask of the rows whose responses have vectors in a view."""
        roles = [self.table.rows.get(f"{view}/{role}") for role in ("chosen", "rejected")]
        return np.all(
            [
                np.zeros(rows_N.size, bool) if one is None else one[rows_N] != NO_ROW
                for one in roles
            ],
            axis=0,
        )

    def store_rows(self, rows_N: np.ndarray, view: str, role: str) -> np.ndarray:
        """(N,) rows of the store. Raises ``StoreError`` if some have no vector in that view."""
        index_N = self.table.rows.get(f"{view}/{role}")
        if index_N is None or (rows_N.size and index_N[rows_N].min() == NO_ROW):
            raise StoreError(
                f"{self.store.path}: pair table {self.table.name!r} has no {view}/{role} vectors "
                "for the rows asked for; run micro-rm embed with these views"
            )
        return index_N[rows_N]


@dataclass(frozen=True)
class RowSource:
    """N rows of a pair table in one pair of views, scaled; read when they are asked for.

    Rows that need more than a quarter of ``memory`` bytes are streamed: a block and the next one
    take half of it. ``streaming_methods`` names the methods that can stream, for the error of one
    that cannot.
    """

    features: Features
    rows_N: np.ndarray
    head: str
    router: str
    scaler: Scaler
    memory: float | None = None
    streaming_methods: Callable[[], Sequence[str]] = tuple

    def __post_init__(self) -> None:
        for view, role in ((self.head, "chosen"), (self.head, "rejected"), (self.router, "prompt")):
            self.features.store_rows(self.rows_N, view, role)

    def __len__(self) -> int:
        return self.rows_N.size

    @property
    def bytes(self) -> int:
        """Memory that all rows take at once: stored vectors and float32 arrays."""
        return len(self) * self.features.store.width * BLOCK_BYTES

    @property
    def streamed(self) -> bool:
        """Whether the rows are too many to be held."""
        return self.memory is not None and self.bytes > self.memory / 4

    @property
    def block_rows(self) -> int:
        """Rows of a block, 1 or more."""
        if not self.streamed:
            return max(len(self), 1)
        assert self.memory is not None
        return max(int(self.memory / 2) // (self.features.store.width * BLOCK_BYTES), 1)

    @cached_property
    def all(self) -> Rows:
        """Every row. Raises ``FeatureMemoryError`` if they must be streamed."""
        if self.streamed:
            assert self.memory is not None
            names = self.streaming_methods()
            raise FeatureMemoryError(
                f"{len(self):,} rows of {self.features.store.width} numbers need "
                f"{self.bytes / GIB:.2f} GiB; train.memory_gib = {self.memory / GIB:g} allows a "
                f"quarter of it for rows that are held at once, and only {_listed(names)} can "
                "stream them; choose these methods or raise it"
            )
        return self.take(np.arange(len(self)))

    def take(self, indices: np.ndarray) -> Rows:
        """Some rows, in the order asked for."""
        rows_n = self.rows_N[indices]

        def read(view: str, role: str) -> np.ndarray:
            return self.features.stored(rows_n, view, role, streamed=self.streamed)

        return self.scaler.apply(
            read(self.head, "chosen"), read(self.head, "rejected"), read(self.router, "prompt")
        )

    def blocks(self) -> Iterator[Rows]:
        """All rows in order, ``block_rows`` at a time."""
        for start in range(0, len(self), self.block_rows):
            yield self.take(np.arange(start, min(start + self.block_rows, len(self))))


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: ``a, b and c``."""
    *others, last = names or ("no method",)
    return f"{', '.join(others)} and {last}" if others else last
