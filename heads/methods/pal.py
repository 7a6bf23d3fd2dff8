"""PAL: a group is a point among prototypes, and a response is as good as it is near.

Chen et al. 2024 (arXiv 2406.08469, section 3). Variant A measures the distance of a projected
response to a fixed ideal point, variant B its cosine to a point that depends on the prompt. A
group's ideal point is the mean of K prototypes under the softmax of its own K numbers.

Training learns the projector, the prototypes and numbers of every known group from all their
training rows. Then, as for their new users, everything is frozen but fresh numbers, which are
fitted to the labelled rows of every draw. Choices of our own:

- Fresh numbers start at the mean weights of the training groups, not at random ones. A group
  without labelled rows, or a row of nobody known, so gets these weights.
- The two learning rates are constant, and rows count alike, whatever the size of their group.
- A's inputs are divided by one number, the root mean square of the training responses; B brings
  every input to length ``sqrt(D)``, so no scale of it matters.

B reads the prompt in the router view. If that differs between training and adapting, its frozen
prototypes meet inputs they have not seen; a view with the context gives B the context. A reads no
prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ...configs.baselines import PalConfig
from ..adaptation import BudgetError
from ..divergence import DivergenceError
from ..epochs import Batches, Stopping, run_epochs, shuffle_rows
from ..losses import head_nll
from ..perceptron import init_perceptron, perceptron
from .interface import NO_LABEL, Examples, Method, Prediction, Problem, Trained, predict_reward

Variant = Literal["A", "B"]
INIT_STREAM, TRAIN_STREAM, ADAPT_STREAM = 51, 52, 53
SCALE_INIT, SCALE_MAX, SCALE_LEARNING_RATE = math.log(1 / 0.07), math.log(100.0), 0.1
TINY = 1e-12


class Inputs(NamedTuple):
    """Pairs and their prompts, scaled: three (N, D) arrays."""

    chosen_NxD: Any
    rejected_NxD: Any
    prompt_NxD: Any


def unit(vector: Array) -> Array:
    """The same direction at length 1; the zero vector stays zero."""
    return vector / jnp.sqrt(jnp.maximum(jnp.sum(vector**2, axis=-1, keepdims=True), TINY))


def nearness(variant: Variant, item_NxL: Array, point_NxL: Array, log_scale: Array) -> Array:
    """Reward of projected responses under ideal points: (N,).

    A: minus the distance. B: the cosine times ``exp(log_scale)``, which is at most 100.
    """
    if variant == "A":
        return -jnp.sqrt(jnp.sum((item_NxL - point_NxL) ** 2, axis=-1) + TINY)
    cosine_N = jnp.sum(unit(item_NxL) * unit(point_NxL), axis=-1)
    return jnp.exp(jnp.minimum(log_scale, SCALE_MAX)) * cosine_N


@partial(jax.jit, static_argnames=("width", "groups", "options"))
def init_model(width: int, groups: int, options: PalConfig, key: Array) -> dict[str, Any]:
    """Fresh parameters; prototypes are points (A) or projectors of the prompt (B)."""
    keys = jax.random.split(key, 3)
    layers = (width, options.hidden, options.latent)
    if options.variant == "A":
        prototypes: Any = jax.random.normal(keys[1], (options.prototypes, width))
    else:
        prototypes = jax.vmap(lambda key: init_perceptron(key, *layers))(
            jax.random.split(keys[1], options.prototypes)
        )
    return {
        "projector": init_perceptron(keys[0], *layers),
        "prototypes": prototypes,
        "groups": jax.random.normal(keys[2], (groups, options.prototypes)),
        "log_scale": jnp.array(SCALE_INIT),
    }


def scaled(variant: Variant, scale: float | Array, inputs: Inputs) -> Inputs:
    """Inputs as the projectors read them."""
    if variant == "A":
        return Inputs(*(jnp.asarray(array) / scale for array in inputs))
    return Inputs(*(unit(jnp.asarray(a)) * math.sqrt(a.shape[-1]) for a in inputs))


class Projected(NamedTuple):
    """Responses (N, L) and each row's prototypes (N, K, L) in the latent space."""

    chosen_NxL: Array
    rejected_NxL: Array
    prototype_NxKxL: Array


def project(variant: Variant, params: Any, inputs: Inputs) -> Projected:
    """What the frozen part of the model makes of some rows."""

    def read(layers: Any, rows: Any) -> Array:
        return perceptron(layers, rows, jax.nn.gelu)

    chosen_NxL, rejected_NxL = (read(params["projector"], side) for side in inputs[:2])
    if variant == "A":
        prototype_KxL = read(params["projector"], params["prototypes"])
        shape = (len(chosen_NxL), *prototype_KxL.shape)
        return Projected(chosen_NxL, rejected_NxL, jnp.broadcast_to(prototype_KxL, shape))
    read_all = jax.vmap(read, in_axes=(0, None), out_axes=1)
    prototype_NxKxL = read_all(params["prototypes"], inputs.prompt_NxD)
    return Projected(chosen_NxL, rejected_NxL, prototype_NxKxL)


def margin(variant: Variant, rows: Projected, weights_NxK: Array, log_scale: Array) -> Array:
    """Nearness of chosen minus that of rejected under weights over prototypes: (N,)."""
    point_NxL = jnp.einsum("nk,nkl->nl", weights_NxK, rows.prototype_NxKxL)
    near = partial(nearness, variant, point_NxL=point_NxL, log_scale=log_scale)
    return near(rows.chosen_NxL) - near(rows.rejected_NxL)


@partial(jax.jit, static_argnames=("options",))
def fit_model(
    params: Any, inputs: Inputs, group_N: Array, options: PalConfig, key: Array
) -> tuple[Any, Array]:
    """Learn everything from the training rows of known groups, whose numbers are 0..G-1."""
    projectors = optax.adamw(options.learning_rate, weight_decay=options.weight_decay)
    people = optax.adam(options.user_learning_rate)
    optimiser = optax.multi_transform(
        {"projector": projectors, "people": people, "scale": optax.adam(SCALE_LEARNING_RATE)},
        {
            "projector": "projector",
            "prototypes": "people" if options.variant == "A" else "projector",
            "groups": "people",
            "log_scale": "scale",
        },
    )

    def loss(params: Any, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
        rows = project(options.variant, params, jax.tree.map(lambda a: a[batch.rows], inputs))
        weights_BxK = jax.nn.softmax(params["groups"][group_N[batch.rows]], axis=-1)
        nll_B = head_nll(margin(options.variant, rows, weights_BxK, params["log_scale"]))
        return jnp.sum(nll_B * batch.mask) / jnp.sum(batch.mask), {}

    batches = shuffle_rows(key, group_N.size, options.batch_size)
    params, curves = run_epochs(Stopping(options.epochs), params, optimiser, loss, batches)
    return params, curves.objective


@partial(jax.jit, static_argnames=("options",))
def fit_groups(
    params: Any,
    prior_K: Array,
    draws: tuple[Inputs, Array],
    group_B: Array,
    options: PalConfig,
    key: Array,
) -> tuple[Array, Array]:
    """Weights (S, G, K) of groups fitted to each draw's labelled rows, all else frozen.

    ``draws`` are inputs (S, B, D) and their mask (S, B). The curves are (S, epochs).
    """
    start_GxK = jnp.log(jnp.broadcast_to(prior_K, params["groups"].shape))
    optimiser = optax.adam(options.user_learning_rate)

    def one(draw: tuple[Array, tuple[Inputs, Array]]) -> tuple[Array, Array]:
        number, (inputs, mask_B) = draw
        rows = project(options.variant, params, inputs)

        def loss(logits_GxK: Array, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
            weights_BxK = jax.nn.softmax(logits_GxK[group_B[batch.rows]], axis=-1)
            taken = jax.tree.map(lambda array: array[batch.rows], rows)
            nll_B = head_nll(margin(options.variant, taken, weights_BxK, params["log_scale"]))
            real_B = batch.mask * mask_B[batch.rows]
            return jnp.sum(nll_B * real_B) / jnp.maximum(jnp.sum(real_B), 1.0), {}

        draw_key = jax.random.fold_in(key, number)
        batches = shuffle_rows(draw_key, group_B.size, options.batch_size)
        logits_GxK, curves = run_epochs(
            Stopping(options.adapt_epochs), start_GxK, optimiser, loss, batches
        )
        return jax.nn.softmax(logits_GxK, axis=-1), curves.objective

    return jax.lax.map(one, (jnp.arange(draws[1].shape[0]), draws))


@partial(jax.jit, static_argnames=("variant",))
def group_margins(variant: Variant, params: Any, inputs: Inputs, group_N: Array) -> Array:
    """Margins (S, N) under the weights of each row's group, mean weights for a row of nobody."""
    rows, known_Nx1 = project(variant, params, inputs), (group_N != NO_LABEL)[:, None]

    def one(weights_GxK: Array) -> Array:
        mine_NxK = weights_GxK[jnp.maximum(group_N, 0)]
        weights_NxK = jnp.where(known_Nx1, mine_NxK, params["prior"][None])
        return margin(variant, rows, weights_NxK, params["log_scale"])

    return jax.lax.map(one, params["weights"])


def _train(problem: Problem) -> tuple[Any, float, Array]:
    """Fitted parameters with numbers for every group of the problem, the scale, and the curve."""
    options, train = problem.baselines.pal, problem.train
    known = np.flatnonzero(train.group_N != NO_LABEL)
    if not known.size:
        raise BudgetError(
            "pal: expected training rows with an adapt.group, found none; set adapt.source=train, "
            "give labels, or leave pal out"
        )
    inputs = Inputs(*train.load_sides(), train.rows.router_input_NxD)
    inputs = Inputs(*(array[known] for array in inputs))
    scale = float(np.sqrt(np.mean(np.square(inputs.chosen_NxD)))) or 1.0
    key = jax.random.fold_in(problem.key, INIT_STREAM)
    params, curve = fit_model(
        init_model(problem.width, len(problem.groups), options, key),
        scaled(options.variant, scale, inputs),
        jnp.asarray(train.group_N[known]),
        options,
        jax.random.fold_in(problem.key, TRAIN_STREAM),
    )
    if not np.isfinite(curve[-1]):
        raise DivergenceError(
            f"training pal diverged (objective {curve[-1]} after {options.epochs} epochs); lower "
            "baselines.pal.learning_rate or set train.features=standardized"
        )
    return params, scale, curve


def _fit(problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    options, budget = problem.baselines.pal, problem.budget
    assert budget is not None  # the stage leaves the method out without one
    params, scale, curve = _train(problem)
    # Numbers of a group without training rows have stayed what they were drawn as.
    trained_groups = np.unique(problem.train.group_N[problem.train.group_N != NO_LABEL])
    prior_K = jnp.mean(jax.nn.softmax(params["groups"][trained_groups], axis=-1), axis=0)
    curves = {"objective": np.asarray(curve)}
    shape = (budget.draws, len(problem.groups), prior_K.size)
    weights_SxGxK = jnp.broadcast_to(prior_K, shape)
    if budget.mask_SxB.shape[1]:
        inputs = Inputs(*budget.load_sides(), budget.rows.router_input_NxD)
        draws = (scaled(options.variant, scale, inputs), jnp.asarray(budget.mask_SxB))
        key, group_B = jax.random.fold_in(problem.key, ADAPT_STREAM), jnp.asarray(budget.group_B)
        weights_SxGxK, curves_SxE = fit_groups(params, prior_K, draws, group_B, options, key)
        curves["adapt_nll"] = np.asarray(curves_SxE).mean(axis=0)
    kept = params | {"weights": weights_SxGxK, "prior": prior_K}
    return Trained(jax.tree.map(np.asarray, kept), asdict(options) | {"scale": scale}, curves)


def _predict(trained: Trained, examples: Examples) -> Prediction:
    variant, scale = trained.settings["variant"], trained.settings["scale"]
    inputs = Inputs(*examples.load_sides(), examples.rows.router_input_NxD)
    read = scaled(variant, scale, inputs)
    margins_SxN = group_margins(variant, trained.params, read, examples.group_N)
    return predict_reward(np.asarray(margins_SxN))


PAL = Method(
    "pal",
    "PAL: a response is as good as it is near a group's mix of prototypes; prototypes learn from "
    "all labels of the groups, the mix from the labelled pairs.",
    stage="adapt",
    fit=_fit,
    predict=_predict,
    needs=("groups",),
    given="group",
)
