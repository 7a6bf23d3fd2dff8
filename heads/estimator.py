"""MiCRo for people who bring their own features, in the manner of scikit-learn.

A pair is three vectors: the preferred response, the other one, and what the router reads (the
prompt, with or without a context). ``X`` is (N, 3, D), so that scikit-learn's cross-validation and
search can cut it by rows; ``y`` is 1 where the first response was preferred and 0 where the second.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from ..cache.schema import StoreError
from ..common.files import write_json
from ..configs.adapt import AdaptConfig
from ..configs.baselines import BaselinesConfig
from ..configs.train import TrainConfig
from .checkpoint import load_models, save_models
from .features import Scaler
from .methods import load_method
from .methods.interface import NO_LABEL, Budget, Examples, Problem, Sides, Trained
from .rows import Rows
from .scoring import HeadScores, Scorer, ScoringError

STAGE1, STAGE2 = "micro_stage1", "micro"
PARAMETERS = "estimator.json"


class MixtureRewards:
    """K reward heads under a router: ``fit`` on plain pairs, ``adapt`` on a few with contexts.

    Parameters are those of ``TrainConfig`` and ``seed``; stage 2 takes those of ``AdaptConfig`` in
    ``adapt``. After ``fit``: ``classes_``, ``n_features_in_``, ``heads_``. For the pairs of a
    store, call ``fit(table.arrays(...).X)``.
    """

    def __init__(self, *, seed: int = 0, **train: Any) -> None:
        self.seed: int = seed
        self._train = replace(TrainConfig(), **_known(TrainConfig, train))
        self._given = dict(train)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What was given at construction, as scikit-learn's ``clone`` wants it."""
        return {"seed": self.seed, **self._given}

    def set_params(self, **params: Any) -> Self:
        """Change some parameters; what was fitted stays until the next ``fit``."""
        self.seed = params.pop("seed", self.seed)
        self._given |= params
        self._train = replace(TrainConfig(), **_known(TrainConfig, self._given))
        return self

    def fit(self, X: np.ndarray, y: np.ndarray | None = None) -> Self:
        """Stage 1, from (N, 3, D) pairs; without ``y`` the first response was preferred.

        ``validation_fraction`` of the rows, drawn at random, choose the epoch that is kept. Raises
        ``ScoringError`` for another shape and for vectors that are not finite.
        """
        chosen, rejected, prompt = _oriented(X, y)
        order = np.random.default_rng(self.seed).permutation(len(chosen))
        held = order[: int(len(order) * self._train.validation_fraction)]
        train = np.setdiff1d(order, held)
        delta, router = (chosen - rejected)[train], prompt[train]
        raw = self._train.features == "raw"
        self._scaler = Scaler.identity(X.shape[2]) if raw else Scaler.fit(delta, router)
        self._set_problem(
            self._examples(chosen[train], rejected[train], prompt[train]),
            self._examples(chosen[held], rejected[held], prompt[held]),
        )
        self._models: dict[str, Trained] = {
            STAGE1: load_method(STAGE1).fit(self._problem, {}),
        }
        return self

    def adapt(
        self, X: np.ndarray, y: np.ndarray | None = None, groups: Any = None, **adapt: Any
    ) -> Self:
        """Stage 2: teach the router from (N, 3, D) pairs whose third vector states a context.

        ``groups`` numbers or names the context of each (all one by default): rows of a group share
        their losses where ``targets`` says so. Raises ``ScoringError`` before ``fit``.
        """
        self._require_fitted()
        chosen, rejected, prompt = _oriented(X, y)
        config = replace(AdaptConfig(), **_known(AdaptConfig, adapt))
        labels = np.zeros(len(X), int) if groups is None else np.asarray(groups)
        if len(labels) != len(X):
            raise ScoringError(f"groups: expected {len(X)} labels, found {len(labels)}")
        place_B, group_B, mask_B = _by_group(labels)
        rows = self._examples(chosen[place_B], rejected[place_B], prompt[place_B])
        budget = Budget(
            rows=jax.tree.map(lambda array: array[None], rows.rows),
            group_B=group_B,
            wording_SxB=group_B[None],
            mask_SxB=mask_B[None],
            load_sides=lambda: Sides(*(side[None] for side in rows.load_sides())),
        )
        problem = replace(self._problem, adapt_config=config, budget=budget)
        self._models[STAGE2] = load_method(STAGE2).fit(problem, self._models)
        return self

    def rewards(self, responses: np.ndarray, prompts: np.ndarray) -> HeadScores:
        """Rewards of (N, D) responses given (N, D) prompts, head by head, and their weights."""
        return self._scorer.score(self._method, responses, prompts)

    @property
    def heads_(self) -> np.ndarray:
        """(D, K) reward heads in the space of the raw features: a reward is ``response @ head``."""
        self._require_fitted()
        kernel_DxK = np.asarray(self._models[STAGE1].params["heads"]["kernel"])
        return kernel_DxK / self._scaler.delta_scale_D[:, None]

    def save(self, folder: str | Path) -> None:
        """Write the parameters and what was fitted into a folder, which is made if need be.

        Raises ``ScoringError`` before ``fit``.
        """
        self._require_fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_models(folder, self._models, self._scaler)
        write_json(folder / PARAMETERS, self.get_params())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The estimator that ``save`` wrote. It predicts and adapts as before; no rows are kept.

        Raises ``StoreError`` if the folder has none, or if a byte has changed.
        """
        folder = Path(folder)
        models, scaler = load_models(folder)
        try:
            estimator = cls(**json.loads((folder / PARAMETERS).read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{folder / PARAMETERS}: cannot be read ({error})") from error
        nothing = np.zeros((0, scaler.delta_scale_D.size), np.float32)
        estimator._scaler = scaler
        estimator._set_problem(
            estimator._examples(nothing, nothing, nothing),
            estimator._examples(nothing, nothing, nothing),
        )
        estimator._models = models
        return estimator

    def _set_problem(self, train: Examples, validation: Examples) -> None:
        """Hold the rows that methods learn from, and what follows from their width."""
        self._problem = Problem(
            width=self._scaler.delta_scale_D.size,
            train=train,
            validation=validation,
            train_config=self._train,
            adapt_config=AdaptConfig(),
            baselines=BaselinesConfig(),
            key=jax.random.key(self.seed),
        )
        self.classes_: np.ndarray = np.array([0, 1])
        self.n_features_in_: int = self._problem.width

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(N, 2) probabilities that the second and that the first response is preferred."""
        _require_pairs(X)
        first, second, prompt = (np.ascontiguousarray(X[:, side]) for side in range(3))
        first_N = self._scorer.probability(self._method, first, second, prompt)
        return np.stack([1 - first_N, first_N], axis=1)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N,) 1 where the first response is preferred, else 0."""
        return (self.predict_proba(X)[:, 1] > 0.5).astype(int)

    def score(self, X: np.ndarray, y: np.ndarray | None = None) -> float:
        """The accuracy; without ``y`` the first response was preferred."""
        wanted_N = np.ones(len(X), int) if y is None else np.asarray(y)
        return float((self.predict(X) == wanted_N).mean())

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks; it is loaded already when it does."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False),
            classifier_tags=ClassifierTags(multi_class=False),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )

    @property
    def _method(self) -> str:
        self._require_fitted()
        return STAGE2 if STAGE2 in self._models else STAGE1

    @property
    def _scorer(self) -> Scorer:
        self._require_fitted()
        return Scorer(self._models, self._scaler)

    def _require_fitted(self) -> None:
        if not hasattr(self, "_models"):
            raise ScoringError("not fitted yet; call fit first")

    def _examples(self, chosen: np.ndarray, rejected: np.ndarray, prompt: np.ndarray) -> Examples:
        rows: Rows = self._scaler.apply(chosen, rejected, prompt)
        none_N = np.full(len(chosen), NO_LABEL)
        scale_D = self._scaler.delta_scale_D
        return Examples(
            data=rows,
            attribute_N=none_N,
            user_N=none_N,
            group_N=np.zeros(len(chosen), int),
            longer_N=np.zeros(len(chosen), np.float32),
            load_sides=lambda: Sides(chosen / scale_D, rejected / scale_D),
        )


def _by_group(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B,) rows, groups and mask: groups have equally many slots, empty beyond their rows."""
    _, number_N = np.unique(labels, return_inverse=True)
    rows = [np.flatnonzero(number_N == group) for group in range(number_N.max() + 1)]
    size = max(map(len, rows))
    place_B = np.concatenate([np.resize(row, size) for row in rows])
    mask_B = np.concatenate([np.arange(size) < len(row) for row in rows]).astype(np.float32)
    return place_B, np.repeat(np.arange(len(rows)), size), mask_B


def _oriented(X: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Preferred, other and prompt (N, D), float32."""
    _require_pairs(X)
    X = np.asarray(X, np.float32)
    if not np.isfinite(X).all():
        raise ScoringError("X: expected finite numbers, found NaN or infinity")
    first, second, prompt = (np.ascontiguousarray(X[:, side]) for side in range(3))
    if y is None:
        return first, second, prompt
    won_N = np.asarray(y)
    if won_N.shape != (len(X),) or not np.isin(won_N, (0, 1)).all():
        raise ScoringError(f"y: expected {len(X)} labels 0 or 1, found {won_N.shape}")
    won_Nx1 = (won_N == 1)[:, None]
    return np.where(won_Nx1, first, second), np.where(won_Nx1, second, first), prompt


def _require_pairs(X: np.ndarray) -> None:
    if np.ndim(X) != 3 or np.shape(X)[1] != 3 or not len(X):
        raise ScoringError(
            "X: expected (N, 3, D): preferred response, other response and prompt per row, found "
            f"{np.shape(X)}"
        )


def _known(config: type, given: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(config)}  # type: ignore[arg-type]
    unknown = sorted(given.keys() - names)
    if unknown:
        raise ScoringError(f"expected parameters among {sorted(names)}, found {unknown}")
    return given
