"""Which labelled rows a method may adapt to: one protocol for every method.

A group is an attribute or a user. Every draw takes the same number of rows from each group, from
the training rows or from the test rows. What was drawn is never scored in that draw, nor is a test
row that shares a prompt, or a response within its group, with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..cache.pairs import NO_ROW, PairTable
from ..common.errors import UserError
from ..configs.adapt import AdaptConfig
from .evaluation.protocol import EvaluationError, TestSet
from .partition import Partition

# What a scored row may share with a labelled one.
Shared = Literal["prompt", "response"]
# What scored rows share with no labelled row, the strictest first.
APART: tuple[tuple[Shared, ...], ...] = (("prompt", "response"), ("prompt",), ("response",), ())


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


def scored_rows(
    table: PairTable, draws: Draws, config: AdaptConfig, test: TestSet
) -> tuple[np.ndarray, Sequence[Shared]]:
    """(S, N) mask of the test rows that each draw may score, and what none of them shares with a
    labelled row.

    That is prompt and response if some rows of every attribute are left. Data with one prompt for
    all rows, or with answers such as yes and no, are kept apart as far as they can be.

    Raises ``EvaluationError`` if the labelled rows leave nothing of an attribute.
    """
    for apart in APART:
        counts_SxN = scored_mask(table, draws, config, test.table_rows, apart)
        left_SxA = [
            np.bincount(test.attribute_N[counts_N], minlength=len(test.attributes))
            for counts_N in counts_SxN
        ]
        lost = np.flatnonzero(np.min(left_SxA, axis=0) == 0)
        if not lost.size:
            return counts_SxN, apart
    raise EvaluationError(
        f"adapt.budget takes every test row of attribute {test.attributes[lost[0]]!r} in some "
        "draw; lower it, or set adapt.source=train"
    )


def scored_mask(
    table: PairTable,
    draws: Draws,
    config: AdaptConfig,
    test_rows: np.ndarray,
    apart: Collection[Shared],
) -> np.ndarray:
    """(S, T) mask of the test rows that each draw may score: none that it adapted to.

    Nor, with ``prompt`` in ``apart``, any with the prompt of a labelled row, and with ``response``
    any with a response that a labelled row of its group has.
    """
    label_N = np.unique(group_labels(table, config), return_inverse=True)[1]
    sides = [np.asarray(table.text[role]) for role in ("chosen", "rejected")]
    response_2xN = np.unique(sides, return_inverse=True)[1].reshape(2, -1)
    labelled_2xN = response_2xN * (label_N.max() + 1) + label_N
    prompt_N = np.unique(np.asarray(table.text["prompt_id"]), return_inverse=True)[1]
    masks = []
    for rows_B in draws.rows_SxB:
        rows_b = rows_B[rows_B != NO_ROW]
        shared_T = np.isin(test_rows, rows_b)
        if "prompt" in apart:
            shared_T |= np.isin(prompt_N[test_rows], prompt_N[rows_b])
        if "response" in apart:
            shared_T |= np.isin(labelled_2xN[:, test_rows], labelled_2xN[:, rows_b]).any(axis=0)
        masks.append(~shared_T)
    return np.stack(masks)
