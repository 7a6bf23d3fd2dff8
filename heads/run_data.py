"""A run's data as methods see them: rows by purpose, one scaling, labelled draws, what lacks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from ..cache.pairs import NO_ROW
from ..configs.data import UNION_SOURCE
from ..configs.schema import Config
from .adaptation import (
    BudgetError,
    Draws,
    Shared,
    adaptable_groups,
    draw_budget,
    drawable_rows,
    scored_rows,
)
from .evaluation.protocol import TestSet, make_test_set
from .features import Features, RowSource, Scaler
from .methods import load_method, method_names
from .methods.interface import NO_LABEL, Budget, Examples, Method, Need, Problem, Ratings, Sides
from .moments import BLOCK_ROWS
from .partition import Partition, partition
from .ratings import rated_responses

# Apart from the streams of methods, which are small numbers.
SEED_STREAM = 1000

LACKS: dict[Need, str] = {
    "contexts": "no pair has both a label to adapt to and a context, so nothing teaches the "
    "router; give data.contexts or a context column",
    "groups": "no pair to draw labelled rows from names an attribute (or user, under "
    "adapt.group=user), so there is nobody to adapt to; give such a column",
    "users": "no pair names a user; give a user column, or set baselines.maxmin.unit",
    "ratings": "the data are choices without ratings; give rows of prompt, response and integer "
    "ratings",
    "native_head": "the backbone has no reward head of its own",
}


@dataclass(frozen=True)
class RunData:
    """The features of one run under its configuration.

    Rows are scaled by the training rows in their stage-1 view. Stage-1 rows come in the training
    views, labelled and scored rows in the views of stage 2.
    """

    config: Config
    features: Features
    saved_scaler: Scaler | None = None
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def member(self, config: Config) -> RunData:
        """The same data under other settings; what does not depend on them is read once."""
        return RunData(config, self.features, self.saved_scaler, self.shared)

    @cached_property
    def parts(self) -> Partition:
        """Rows by purpose. Raises ``BudgetError`` if none is left for training."""
        fraction = self.config.train.validation_fraction
        return self._once(("parts", fraction), lambda: self._partition(fraction))

    def _partition(self, fraction: float) -> Partition:
        parts = partition(self.features.table, fraction)
        if not parts.train.size:
            raise BudgetError(
                f"data set {self.features.table.name!r} has no training rows left; lower "
                "train.validation_fraction or add rows"
            )
        return parts

    @cached_property
    def test_set(self) -> TestSet:
        """The rows that are scored. Raises ``EvaluationError`` if an attribute has none."""
        transfer = self.config.data.source == UNION_SOURCE
        return make_test_set(self.features.table, self.parts.test, transfer=transfer)

    @cached_property
    def scaler(self) -> Scaler:
        """What the models were trained with, if that is given; else made as the settings say."""
        if self.saved_scaler is not None:
            return self.saved_scaler
        if self.config.train.features == "raw":
            return Scaler.identity(self.features.store.width)
        return self._once(("scaler", *self._scaling), self._fit_scaler)

    @property
    def _scaling(self) -> tuple[Hashable, ...]:
        """What the scaler depends on."""
        train, views = self.config.train, self.config.views
        return train.features, train.validation_fraction, views.train_head, views.train_router

    def _fit_scaler(self) -> Scaler:
        views, train_N = self.config.views, self.parts.train
        return Scaler.fit_blocks(
            self.features.arrays(
                train_N[start : start + BLOCK_ROWS], views.train_head, views.train_router
            )
            for start in range(0, train_N.size, BLOCK_ROWS)
        )

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Attributes or users with labelled rows."""
        adapt, fraction = self.config.adapt, self.config.train.validation_fraction
        return self._once(
            ("groups", fraction, adapt.group, adapt.source),
            lambda: adaptable_groups(self.features.table, self.parts, adapt),
        )

    @cached_property
    def draws(self) -> Draws | None:
        """Labelled rows of every draw, None if no row belongs to a group."""
        if not self.groups:
            return None
        return draw_budget(self.features.table, self.parts, self.config.adapt, self.config.run.seed)

    def scored_rows(self, test: TestSet) -> tuple[np.ndarray | None, Sequence[Shared]]:
        """The mask and the kinds of ``adaptation.scored_rows``; without labelled rows, None."""
        draws = self.draws
        if draws is None:
            return None, ()
        key = ("scored rows", *self._drawing, test.table_rows.tobytes())
        table, adapt = self.features.table, self.config.adapt
        return self._once(key, lambda: scored_rows(table, draws, adapt, test))

    @property
    def _drawing(self) -> tuple[Hashable, ...]:
        """What the groups and the labelled rows depend on, beside the scaler and the views."""
        adapt, seed = self.config.adapt, self.config.run.seed
        fraction = self.config.train.validation_fraction
        return fraction, adapt.group, adapt.source, adapt.budget, adapt.draws, seed

    def stage1(self, rows_N: np.ndarray) -> Examples:
        """Rows in the views of stage 1."""
        return self._examples(rows_N, self.config.views.train_head, self.config.views.train_router)

    def stage2(self, rows_N: np.ndarray) -> Examples:
        """Rows in the views of stage 2 and of scoring."""
        return self._examples(rows_N, self.config.views.adapt_head, self.config.views.adapt_router)

    def scored_heads(self, rows_N: np.ndarray) -> Examples:
        """Rows in the view in which heads are scored, the router's view being that of stage 1."""
        return self._examples(rows_N, self.config.views.adapt_head, self.config.views.train_router)

    def problems(self, *, adapt: bool) -> list[Problem]:
        """``problem`` under every training seed, the first with the key of ``run.seed`` itself.

        The labelled rows are the same under all of them.
        """
        problem = self.problem(adapt=adapt)
        further = jax.random.fold_in(problem.key, SEED_STREAM)
        return [
            replace(problem, key=jax.random.fold_in(further, seed) if seed else problem.key)
            for seed in range(self.config.train.seeds)
        ]

    def problem(self, *, adapt: bool) -> Problem:
        """What methods learn from; with the labelled rows if they may adapt."""
        config, features = self.config, self.features
        head = features.native_head_D
        return Problem(
            width=features.store.width,
            train=self.stage1(self.parts.train),
            validation=self.stage1(self.parts.validation),
            train_config=config.train,
            adapt_config=config.adapt,
            baselines=config.baselines,
            key=jax.random.key(config.run.seed),
            groups=self.groups,
            budget=self._budget() if adapt and self.draws is not None else None,
            load_ratings=self._ratings if features.table.ratings else None,
            native_head_D=None if head is None else head * self.scaler.delta_scale_D,
            scaler=self.scaler,
        )

    def lacks(self, method: Method) -> str | None:
        """Why the data cannot serve a method, None if they can."""
        for need in method.needs:
            if not self._has[need]:
                return LACKS[need]
        return None

    @cached_property
    def _has(self) -> dict[Need, bool]:
        table, parts = self.features.table, self.parts
        context_N = np.asarray(table.text["context"])
        drawable_N = drawable_rows(table, parts, self.config.adapt)
        return {
            "contexts": bool((context_N[drawable_N] != "").any()),
            "groups": bool(self.groups),
            "users": any(table.text["user"][row] for row in parts.train),
            "ratings": bool(table.ratings),
            "native_head": self.features.native_head_D is not None,
        }

    def _once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self.shared:
            self.shared[key] = make()
        return self.shared[key]

    def _examples(self, rows_N: np.ndarray, head: str, router: str) -> Examples:
        adapt, memory = self.config.adapt, self.config.train.memory_gib
        key = (rows_N.tobytes(), head, router, memory, *self._scaling, adapt.group, self.groups)
        limit = self.config.train.memory_bytes
        return self._once(key, lambda: self._read_examples(rows_N, head, router, limit))

    def _read_examples(
        self, rows_N: np.ndarray, head: str, router: str, memory: float | None
    ) -> Examples:
        table = self.features.table
        text = {name: np.asarray(table.text[name]) for name in ("attribute", "user")}
        return Examples(
            data=RowSource(
                self.features, rows_N, head, router, self.scaler, memory, _streaming_methods
            ),
            attribute_N=_numbers(text["attribute"], rows_N),
            user_N=_numbers(text["user"], rows_N),
            group_N=_places(text[self.config.adapt.group][rows_N], self.groups),
            longer_N=(table.tokens["chosen"] - table.tokens["rejected"])[rows_N].astype(np.float32),
            load_sides=lambda: self._sides(rows_N, head),
        )

    def _sides(self, rows_N: np.ndarray, head: str) -> Sides:
        scale_D = self.scaler.delta_scale_D
        return Sides(*(side / scale_D for side in self.features.sides(rows_N, head)))

    def _budget(self) -> Budget:
        views = (self.config.views.adapt_head, self.config.views.adapt_router)
        key = ("budget", *self._drawing, *self._scaling, *views)
        return self._once(key, self._read_budget)

    def _read_budget(self) -> Budget:
        assert self.draws is not None
        rows_SxB = self.draws.rows_SxB
        real_SxB = rows_SxB != NO_ROW
        # A slot that a group cannot fill repeats some labelled row and counts nothing.
        filling = rows_SxB[real_SxB][0] if real_SxB.any() else 0
        flat_N = np.where(real_SxB, rows_SxB, filling).reshape(-1)
        views = self.config.views
        examples = self._read_examples(flat_N, views.adapt_head, views.adapt_router, None)
        wording_N = _numbers(np.asarray(self.features.table.text["context"]), flat_N)

        def shaped(array: np.ndarray) -> np.ndarray:
            return array.reshape(*rows_SxB.shape, *array.shape[1:])

        return Budget(
            rows=jax.tree.map(shaped, examples.rows),
            group_B=self.draws.group_B,
            wording_SxB=shaped(wording_N),
            mask_SxB=real_SxB.astype(np.float32),
            load_sides=lambda: Sides(*(shaped(side) for side in examples.load_sides())),
        )

    def _ratings(self) -> Ratings:
        """Rated responses of the training prompts, in the stage-1 view; validation held out."""
        parts, table = self.parts, self.features.table
        rows_N = np.concatenate([parts.train, parts.validation])
        places_M, rating_MxA, held_out_M = rated_responses(
            table, rows_N, parts.validation, self.config.views.train_head
        )
        features_MxD = self.features.store.vectors(places_M).astype(np.float32)
        return Ratings(
            features_MxD / self.scaler.delta_scale_D,
            rating_MxA,
            held_out_M,
            tuple(table.ratings),
        )


def _streaming_methods() -> list[str]:
    return [name for name in method_names() if load_method(name).streams]


def _numbers(label_N: np.ndarray, rows_N: np.ndarray) -> np.ndarray:
    """Numbers of the labels of some rows, the same for every choice of rows; empty is NO_LABEL."""
    names, number_N = np.unique(label_N, return_inverse=True)
    number_N = np.where(names[number_N] == "", NO_LABEL, number_N) if names.size else number_N
    return number_N[rows_N]


def _places(label_N: np.ndarray, groups: tuple[str, ...]) -> np.ndarray:
    index_of = {name: index for index, name in enumerate(groups)}
    return np.array([index_of.get(name, NO_LABEL) for name in label_N.tolist()], np.int64)
