"""Rows of a store to arrays for training: reward differences and router inputs, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jax.numpy as jnp
import numpy as np

from ..cache.pairs import NO_ROW, PairTable
from ..cache.schema import StoreError
from .partition import Partition, partition  # noqa: F401
from .training import Rows

# A dimension that varies less than this share of the median one carries rounding, not meaning:
# all-MiniLM-L6-v2 has three of them.
DEAD_DIMENSION = 1e-3


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

        def positive(scale_D: np.ndarray) -> np.ndarray:
            dead_D = scale_D <= DEAD_DIMENSION * np.median(scale_D)
            return np.where(dead_D, 1.0, scale_D).astype(np.float32)

        return cls(
            delta_scale_D=positive(np.sqrt(np.mean(delta_NxD.astype(np.float64) ** 2, axis=0))),
            router_mean_D=router_input_NxD.mean(axis=0, dtype=np.float64).astype(np.float32),
            router_scale_D=positive(router_input_NxD.std(axis=0, dtype=np.float64)),
        )

    def raw_router_input(self, router_input_NxD: np.ndarray) -> np.ndarray:
        """Router inputs as they were before ``apply``, float64."""
        return router_input_NxD.astype(np.float64) * self.router_scale_D + self.router_mean_D

    def apply(self, delta_NxD: np.ndarray, router_input_NxD: np.ndarray) -> Rows:
        """Scaled rows on the device."""
        return Rows(
            jnp.asarray(delta_NxD / self.delta_scale_D),
            jnp.asarray((router_input_NxD - self.router_mean_D) / self.router_scale_D),
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


@dataclass(frozen=True)
class Features:
    """A pair table, the store that its rows point into, and the backbone's own reward head."""

    store: VectorSource
    table: PairTable
    native_head_D: np.ndarray | None = None

    def arrays(self, rows_N: np.ndarray, head: str, router: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) differences in the head view and (N, D) prompts in the router view, float32."""
        chosen, rejected = self.sides(rows_N, head)
        return chosen - rejected, self._vectors(rows_N, router, "prompt")

    def sides(self, rows_N: np.ndarray, head: str) -> tuple[np.ndarray, np.ndarray]:
        """Both responses of every row in a view: two (N, D) arrays, float32."""
        return self._vectors(rows_N, head, "chosen"), self._vectors(rows_N, head, "rejected")

    def _vectors(self, rows_N: np.ndarray, view: str, role: str) -> np.ndarray:
        places = self.table.rows.get(f"{view}/{role}")
        if places is None or (rows_N.size and places[rows_N].min() == NO_ROW):
            raise StoreError(
                f"{self.store.path}: pair table {self.table.name!r} has no {view}/{role} vectors "
                "for the rows asked for; run micro-rm embed with these views"
            )
        return self.store.vectors(places[rows_N]).astype(np.float32)
