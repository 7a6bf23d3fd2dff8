"""Rows of a store to arrays for training: reward differences and router inputs, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from .. import UserError
from ..cache.pairs import NO_ROW, PairTable
from ..cache.reader import FeatureStore
from ..cache.schema import StoreError
from ..configs.schema import AdaptConfig, ViewsConfig
from .training import Rows

# A dimension that varies less than this share of the median one carries rounding, not meaning:
# all-MiniLM-L6-v2 has three of them.
DEAD_DIMENSION = 1e-3


class BudgetError(UserError):
    """There are not enough rows to learn from; the message says which and what to do."""


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

    def apply(self, delta_NxD: np.ndarray, router_input_NxD: np.ndarray) -> Rows:
        """Scaled rows on the device."""
        return Rows(
            jnp.asarray(delta_NxD / self.delta_scale_D),
            jnp.asarray((router_input_NxD - self.router_mean_D) / self.router_scale_D),
        )


@dataclass(frozen=True)
class Features:
    """A pair table with the store that its rows point into."""

    store: FeatureStore
    table: PairTable

    def arrays(self, rows_N: np.ndarray, head: str, router: str) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) differences in the head view and (N, D) prompts in the router view, float32."""
        chosen = self._vectors(rows_N, head, "chosen")
        rejected = self._vectors(rows_N, head, "rejected")
        return chosen - rejected, self._vectors(rows_N, router, "prompt")

    def _vectors(self, rows_N: np.ndarray, view: str, role: str) -> np.ndarray:
        places = self.table.rows.get(f"{view}/{role}")
        if places is None or (rows_N.size and places[rows_N].min() == NO_ROW):
            raise StoreError(
                f"{self.store.path}: pair table {self.table.name!r} has no {view}/{role} vectors "
                "for the rows asked for; run micro-rm embed with these views"
            )
        return self.store.vectors(places[rows_N]).astype(np.float32)


@dataclass(frozen=True)
class Partition:
    """Row numbers of a pair table by purpose; no row serves two."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def partition(table: PairTable, validation_fraction: float) -> Partition:
    """Test rows as the data say; validation rows by prompt from the training rows."""
    split_N = np.asarray(table.text["split"])
    fraction_N = np.array([int(name[:13], 16) / 16**13 for name in table.text["prompt_id"]])
    held_out_N = fraction_N < validation_fraction
    is_train_N = split_N == "train"
    return Partition(
        train=np.flatnonzero(is_train_N & ~held_out_N),
        validation=np.flatnonzero(is_train_N & held_out_N),
        test=np.flatnonzero(split_N == "test"),
    )


def adaptable_attributes(table: PairTable, train_rows: np.ndarray) -> list[str]:
    """Attributes of the training rows that have any context, in order of first appearance."""
    attribute, context = table.text["attribute"], table.text["context"]
    found = (attribute[row] for row in train_rows if attribute[row] and context[row])
    return list(dict.fromkeys(found))


def draw_budget(
    table: PairTable, train_rows: np.ndarray, config: AdaptConfig, seed: int
) -> np.ndarray:
    """(S, n) row numbers: ``config.budget`` pool rows with a context per attribute and draw.

    Rows without an attribute are never drawn. All are training rows, none is a validation or test
    row, none occurs twice in a draw. Raises ``BudgetError`` if an attribute has too few.
    """
    attribute_N = np.asarray(table.text["attribute"])
    has_context_N = np.asarray(table.text["context"]) != ""
    usable_N = np.zeros(len(table), bool)
    usable_N[train_rows] = True
    usable_N &= table.pool & has_context_N
    draws = []
    for draw in range(config.draws):
        parts = []
        for number, name in enumerate(adaptable_attributes(table, train_rows)):
            candidates = np.flatnonzero(usable_N & (attribute_N == name))
            if candidates.size < config.budget:
                raise BudgetError(
                    f"adapt.budget: expected {config.budget} training rows with a context for "
                    f"attribute {name!r}, found {candidates.size}; lower adapt.budget, raise "
                    "adapt.pool, or add rows and contexts"
                )
            order = np.random.default_rng((seed, draw, number)).permutation(candidates.size)
            parts.append(candidates[order[: config.budget]])
        draws.append(np.concatenate(parts))
    return np.stack(draws).astype(np.int64)


def stage1_rows(
    features: Features, parts: Partition, views: ViewsConfig, scaling: str
) -> tuple[Rows, Rows, Scaler]:
    """Training rows, validation rows and the scaler that both (and every later row) go through."""
    if not parts.train.size:
        raise BudgetError(
            f"data set {features.table.name!r} has no training rows left; lower "
            "train.validation_fraction or add rows"
        )
    train = features.arrays(parts.train, views.train_head, views.train_router)
    validation = features.arrays(parts.validation, views.train_head, views.train_router)
    width = features.store.width
    scaler = Scaler.fit(*train) if scaling == "standardized" else Scaler.identity(width)
    return scaler.apply(*train), scaler.apply(*validation), scaler
