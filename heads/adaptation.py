"""Which labelled rows a method may adapt to: one protocol for every method.

A group is an attribute or a user. Every draw takes the same number of rows from each group, from
the training rows or from the test rows; test rows that were drawn are never scored in that draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cache.pairs import NO_ROW, PairTable
from ..common.errors import UserError
from ..configs.adapt import AdaptConfig
from .partition import Partition


class BudgetError(UserError):
    """There are not enough rows to learn from; the message says which and what to do."""


@dataclass(frozen=True)
class Draws:
    """``rows_SxB``: row numbers of every draw, n slots per group in group order.

    ``NO_ROW`` fills the slots of a user with fewer rows than the budget.
    """

    groups: tuple[str, ...]
    rows_SxB: np.ndarray

    @property
    def group_B(self) -> np.ndarray:
        """Number of the group that each slot belongs to."""
        groups = len(self.groups)
        return np.repeat(np.arange(groups), self.rows_SxB.shape[1] // max(groups, 1))


def group_labels(table: PairTable, config: AdaptConfig) -> np.ndarray:
    """(N,) name of every row's group, the empty text where it has none."""
    return np.asarray(table.text[config.group])


def drawable_rows(table: PairTable, parts: Partition, config: AdaptConfig) -> np.ndarray:
    """(N,) mask of the rows that a budget may be drawn from.

    They belong to a group. Where any of them has a context, the others are left out: rows without
    one cannot teach a router.
    """
    drawable_N = np.zeros(len(table), bool)
    if config.source == "train":
        learnt_from = np.concatenate([parts.train, parts.adapt])
        drawable_N[learnt_from] = table.pool[learnt_from]
    else:
        drawable_N[parts.test] = True
    drawable_N &= group_labels(table, config) != ""
    with_context_N = drawable_N & (np.asarray(table.text["context"]) != "")
    return with_context_N if with_context_N.any() else drawable_N


def adaptable_groups(table: PairTable, parts: Partition, config: AdaptConfig) -> tuple[str, ...]:
    """Groups that have drawable rows, in order of first appearance."""
    labels_N = group_labels(table, config)
    return tuple(dict.fromkeys(labels_N[drawable_rows(table, parts, config)].tolist()))


def draw_budget(table: PairTable, parts: Partition, config: AdaptConfig, seed: int) -> Draws:
    """``config.draws`` draws of ``config.budget`` rows per group, none twice in a draw.

    Raises ``BudgetError`` if an attribute has too few rows. Users with fewer give all they have.
    A larger budget starts with the rows of a smaller one.
    """
    drawable_N, labels_N = drawable_rows(table, parts, config), group_labels(table, config)
    groups = adaptable_groups(table, parts, config)
    rows_SxGxn = np.full((config.draws, len(groups), config.budget), NO_ROW, np.int64)
    for number, name in enumerate(groups):
        candidates = np.flatnonzero(drawable_N & (labels_N == name))
        if candidates.size < config.budget and config.group == "attribute":
            raise BudgetError(
                f"adapt.budget: expected {config.budget} {config.source} rows for attribute "
                f"{name!r}, found {candidates.size}; lower adapt.budget, raise adapt.pool, or add "
                "rows and contexts"
            )
        for draw in range(config.draws):
            order = np.random.default_rng((seed, draw, number)).permutation(candidates.size)
            taken = candidates[order[: config.budget]]
            rows_SxGxn[draw, number, : taken.size] = taken
    return Draws(groups, rows_SxGxn.reshape(config.draws, -1))


def scored_mask(draws: Draws | None, test_rows: np.ndarray) -> np.ndarray:
    """(S, T) which test rows each draw may score: those that it did not adapt to."""
    if draws is None:
        return np.ones((1, test_rows.size), bool)
    return np.stack([~np.isin(test_rows, rows_B) for rows_B in draws.rows_SxB])
