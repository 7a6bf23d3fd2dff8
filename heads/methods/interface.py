"""What a method is: a name, a sentence, what it needs, a function that fits and one that predicts.

A method may keep any arrays; it hands out decisions and probabilities, and head by head what they
come from where it has heads.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from ...common.errors import UserError
from ...configs.adapt import AdaptConfig
from ...configs.baselines import BaselinesConfig
from ...configs.train import TrainConfig
from ..evaluation.metrics import decision_statistic, log_probability, log_sigmoid
from ..features import RowSource, Scaler
from ..model import ModelSpec
from ..rows import Rows

NO_LABEL = -1
Rule = Literal["R1", "R2"]
Need = Literal["contexts", "groups", "users", "ratings", "native_head"]
# What a method is given at test time beside the texts of a row: nothing, its context, or its group.
Given = Literal["prompt", "context", "group"]
# What a response is scored with: a context beside its prompt, or the prompt alone.
ScoreInput = Literal["context", "prompt"]


class Sides(NamedTuple):
    """Both responses of every pair, scaled as their difference is."""

    chosen_NxD: np.ndarray
    rejected_NxD: np.ndarray


@dataclass(frozen=True)
class Examples:
    """N pairs as a method sees them.

    ``attribute_N`` and ``user_N`` number the labels of the data set, ``NO_LABEL`` where a row has
    none. ``group_N`` numbers the attribute or user that labelled rows are drawn by, ``NO_LABEL``
    where none are drawn for it. ``longer_N`` counts the tokens by which chosen is longer.
    ``data`` are the rows, or the source that they are read from when a method wants them.
    ``load_sides`` reads both responses on demand: most methods need their difference only.
    """

    data: Rows | RowSource
    attribute_N: np.ndarray
    user_N: np.ndarray
    group_N: np.ndarray
    longer_N: np.ndarray
    load_sides: Callable[[], Sides]

    @property
    def rows(self) -> Rows:
        """All rows at once; ``FeatureMemoryError`` if they must be streamed."""
        return self.data if isinstance(self.data, Rows) else self.data.all

    @property
    def stream(self) -> RowSource | None:
        """Where to read the rows block by block, None if they are in memory."""
        return self.data if isinstance(self.data, RowSource) and self.data.streamed else None

    def blocks(self) -> Iterator[Rows]:
        """The rows in order, in blocks that fit into memory; one block where all of them do."""
        return iter([self.rows]) if self.stream is None else self.stream.blocks()


@dataclass(frozen=True)
class Budget:
    """S draws of labelled rows: G groups with n slots each, B = G n slots in group order.

    Arrays of ``rows`` and ``load_sides`` are (S, B, ...). ``mask_SxB`` is 0.0 in slots that a
    group could not fill. Rows with the same ``wording_SxB`` number state the same context.
    """

    rows: Rows
    group_B: np.ndarray
    wording_SxB: np.ndarray
    mask_SxB: np.ndarray
    load_sides: Callable[[], Sides]

    @property
    def draws(self) -> int:
        """S, how often the budget was drawn."""
        return self.mask_SxB.shape[0]

    def by_group(self, values_SxBx: Any) -> Any:
        """The same array as (S, G, n, ...); there are slots to share out."""
        groups = int(self.group_B.max()) + 1
        return values_SxBx.reshape(self.draws, groups, -1, *values_SxBx.shape[2:])


@dataclass(frozen=True)
class Ratings:
    """Rated training responses: each once, NaN where it has no rating of an attribute."""

    features_MxD: np.ndarray
    rating_MxA: np.ndarray
    held_out_M: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """Everything that a method may learn from: no scored row is in it.

    ``budget`` is None before stage 2, ``load_ratings`` and ``native_head_D`` where the data or the
    backbone have none, ``scaler`` for raw features.
    """

    width: int
    train: Examples
    validation: Examples
    train_config: TrainConfig
    adapt_config: AdaptConfig
    baselines: BaselinesConfig
    key: Array
    groups: tuple[str, ...] = ()
    budget: Budget | None = None
    load_ratings: Callable[[], Ratings] | None = None
    native_head_D: np.ndarray | None = None
    scaler: Scaler | None = None


class HeadOutputs(NamedTuple):
    """Head margins (N, K) and log weights per draw (S, N, K); S = 1 without draws."""

    delta_NxK: np.ndarray
    log_weights_SxNxK: np.ndarray


class Prediction(NamedTuple):
    """Per draw and row (S, N): a statistic, positive where chosen wins, and ``log P(chosen)``."""

    statistic_SxN: np.ndarray
    log_prob_SxN: np.ndarray
    heads: HeadOutputs | None = None


@dataclass(frozen=True)
class Trained:
    """A fitted method: arrays, what they mean, and curves to look at.

    ``params`` is a nested dictionary of float arrays, ``settings`` is JSON.
    """

    params: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        """Shape of the model, for methods that are heads under a router."""
        return ModelSpec(**self.settings["spec"])


Fit = Callable[[Problem, Mapping[str, Trained]], Trained]
# (problems with equal ``program``, what was fitted before for each, heads to pad all of them to);
# an error stands for the model of its problem.
FitMany = Callable[
    [Sequence[Problem], Sequence[Mapping[str, Trained]], int], list[Trained | UserError]
]
Program = Callable[[Problem, Mapping[str, Trained]], Hashable]
Predict = Callable[[Trained, Examples], Prediction]


@dataclass(frozen=True)
class Method:
    """A method: what it is called, what it needs, how it is fitted and how it predicts.

    What the package wants to know about a method is a field here and nowhere a list of names, so
    that a method that is defined elsewhere takes part in everything.

    Attributes:
        name: Its name in tables and on the command line.
        summary: One sentence for reports.
        stage: train if it learns from plain pairs only, adapt if from labelled ones as well.
        fit: Learns from a problem, given the methods in ``after``, fitted.
        predict: Decisions and probabilities for some pairs.
        rule: How it decides: R1 by mixture probability, R2 by weighted reward.
        after: Methods that are fitted before it.
        needs: What the data must have.
        given: What it is given at test time beside the texts of a row.
        own_heads: It has trained several heads that no other method has.
        routes: Its weights are those of a router that reads the row.
        fit_many: Fits several members of a sweep in one program, each as ``fit`` would alone.
        program: What such members must have in common; given together with ``fit_many``.
        streams: It fits and predicts on rows that are read in blocks.
        seeded: Its fit draws from the key of the problem. A method that does not, and comes after
            none that does, is fitted once whatever the number of training seeds.
        linear: Its one reward is linear in the vector, so that single responses have a reward, as
            they do under methods that have heads.
        default_for: Requests that it may score where no method is named.
        rank: Order of preference where a method is chosen by default, to score or to show its
            heads; the smallest comes first, and None is never preferred.
        source: Text of a method that was defined outside of the package, on which its stages then
            depend.
    """

    name: str
    summary: str
    stage: Literal["train", "adapt"]
    fit: Fit
    predict: Predict
    rule: Rule = "R1"
    after: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    given: Given = "prompt"
    own_heads: bool = False
    routes: bool = False
    fit_many: FitMany | None = None
    program: Program | None = None
    streams: bool = False
    seeded: bool = True
    linear: bool = False
    default_for: tuple[ScoreInput, ...] = ()
    rank: int | None = None
    source: str = ""


def predict_heads(rule: Rule, delta_NxK: np.ndarray, log_weights_SxNxK: np.ndarray) -> Prediction:
    """The prediction of heads under weights: decision and probability follow the same rule."""
    return Prediction(
        decision_statistic(rule, delta_NxK, log_weights_SxNxK),
        log_probability(rule, delta_NxK, log_weights_SxNxK),
        HeadOutputs(delta_NxK, log_weights_SxNxK),
    )


def predict_reward(delta_SxN: np.ndarray) -> Prediction:
    """The prediction of one scalar reward per draw, given its differences (S, N)."""
    return Prediction(np.asarray(delta_SxN, np.float64), log_sigmoid(delta_SxN))


def one_draw(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a model without stage-2 draws in the stacked form of ``Trained``."""
    router = jax.tree.map(lambda leaf: leaf[None], params["router"])
    return {"heads": params["heads"], "router": router}
