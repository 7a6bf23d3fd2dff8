"""PAL: a group is a point among prototypes, and a response is as good as it is near.

Chen et al. 2024 (arXiv 2406.08469, section 3). Variant A measures the distance of a projected
response to a fixed ideal point, variant B its cosine to a point that depends on the prompt. A
group's ideal point is the mean of K prototypes under the softmax of its own K numbers.

Training learns the projector, the prototypes and numbers of every known group from all their
training rows. Then, as for their new users, everything is frozen but fresh numbers, which are
fitted to the labelled rows of every draw.

B is the form of the released code. Its configurations of A differ from ours in four places:

- The ideal point is ``f(P) w``, the mean of the projected prototypes, which is linear in the
  weights; theirs is ``f(P w)``, the projected mean. The code has our form as an option.
- The loss is logistic in the difference of distances; theirs is a hinge with margin 1.
- The projector is a perceptron with GELU; theirs has ReLU, and its input is added to its output.
- The length of an ideal point is not bounded; they penalise what exceeds 4.

Choices of our own, in A and B:

- Fresh numbers are fitted by L-BFGS until the gradient vanishes; theirs by one pass of AdamW, which
  hardly moves those of somebody with fifty labels. They start at the mean weights of the
  training groups, not at random ones: a group without labelled rows, or a row of nobody known, gets
  these weights. The loss is not convex in them, so what is found is a minimum near that start.
- The two learning rates are constant, and training rows count alike, whatever the size of their
  group.
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
from ..lbfgs import minimise
from ..losses import head_nll
from ..perceptron import init_perceptron, perceptron
from .interface import NO_LABEL, Examples, Method, Prediction, Problem, Trained, predict_reward

Variant = Literal["A", "B"]
INIT_STREAM, TRAIN_STREAM = 51, 52
# L-BFGS ends when no entry of the gradient is larger. Near a corner of the simplex its line search
# can stall in float32 before that; it begins again there, without its memory.
TOLERANCE, ADAPT_STEPS, ADAPT_RUNS = 1e-4, 100, 3
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


@partial(jax.jit, static_argnames=("variant",))
def fit_groups(
    variant: Variant, params: Any, prior_K: Array, inputs: Inputs, mask_SxGxn: Array
) -> tuple[Array, Array]:
    """Weights (S, G, K) of groups fitted to each draw's labelled rows, all else frozen.

    ``inputs`` are (S, G, n, D). Every group minimises the mean loss of its own rows; also returns
    the largest entry of its gradient at the end (S, G).
    """

    def solve(group: tuple[Inputs, Array]) -> tuple[Array, Array]:
        inputs, mask_n = group
        rows, count = project(variant, params, inputs), jnp.maximum(jnp.sum(mask_n), 1.0)

        def loss(logits_K: Array) -> Array:
            weights_nxK = jnp.broadcast_to(jax.nn.softmax(logits_K), (mask_n.size, logits_K.size))
            nll_n = head_nll(margin(variant, rows, weights_nxK, params["log_scale"]))
            return jnp.sum(nll_n * mask_n) / count

        start_K = jnp.log(jnp.maximum(prior_K, TINY))

        def run(_: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
            return minimise(loss, found[0], ADAPT_STEPS, TOLERANCE)

        logits_K, gradient = jax.lax.fori_loop(0, ADAPT_RUNS, run, (start_K, jnp.array(jnp.inf)))
        return jax.nn.softmax(logits_K), gradient

    return jax.lax.map(jax.vmap(solve), (inputs, mask_SxGxn))


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
    settings = asdict(options) | {"scale": scale}
    shape = (budget.draws, len(problem.groups), prior_K.size)
    weights_SxGxK = jnp.broadcast_to(prior_K, shape)
    if budget.mask_SxB.shape[1]:
        inputs = Inputs(*budget.load_sides(), budget.rows.router_input_NxD)
        inputs = jax.tree.map(budget.by_group, scaled(options.variant, scale, inputs))
        mask_SxGxn = jnp.asarray(budget.by_group(budget.mask_SxB))
        weights_SxGxK, gradient_SxG = fit_groups(
            options.variant, params, prior_K, inputs, mask_SxGxn
        )
        settings["largest_gradient"] = float(gradient_SxG.max())
    kept = params | {"weights": weights_SxGxK, "prior": prior_K}
    return Trained(jax.tree.map(np.asarray, kept), settings, {"objective": np.asarray(curve)})


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
