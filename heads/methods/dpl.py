"""Distributional preference learning on frozen features: a linear head per distribution parameter.

Siththaranjan et al. 2024 (arXiv 2312.08358), both forms. Three things differ from their code, which
fine-tunes a language model. The optimiser is that of all methods trained on plain pairs here. Every
output but the first has a bias: a level of spread, or the share of a reward level, does not cancel
between two responses, and frozen features need hold no constant that could stand in for it. The
first output needs none: the bias of a mean cancels, and a softmax knows only differences. The
categorical form decides by its own probability, ``log P(chosen wins) - log P(rejected wins)``; the
expected level can rank otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ...configs.baselines import DplConfig
from ...configs.train import TrainConfig
from ..distributional import (
    RewardMoments,
    batch_negative_entropy,
    categorical_log_prob,
    categorical_moments,
    explained_share,
    normal_log_prob,
    normal_moments,
    variance_penalty,
)
from ..divergence import divergence
from ..epochs import Batches, Curves, Stopping, run_epochs, shuffle_rows
from ..training import make_optimiser, total_steps
from .interface import Examples, Method, Prediction, Problem, Sides, Trained
from .mixture import REMEDY

Form = Literal["mean_variance", "categorical"]
INIT_STREAM, SHUFFLE_STREAM = 31, 32


def init_outputs(width: int, outputs: int, scale: float, key: Array) -> dict[str, Array]:
    """A linear map to O distribution parameters: (D, O) and (O - 1,), the kernel scaled down."""
    bound = scale * width**-0.5
    kernel_DxO = jax.random.uniform(key, (width, outputs), minval=-bound, maxval=bound)
    return {"kernel": kernel_DxO, "bias": jnp.zeros(outputs - 1)}


def apply_outputs(params: Any, sides: Sides) -> tuple[Array, Array]:
    """Distribution parameters of both responses of every pair: two (N, O) arrays."""
    bias_1xO = jnp.pad(params["bias"], (1, 0))[None]
    chosen_NxO, rejected_NxO = (jnp.asarray(side) @ params["kernel"] + bias_1xO for side in sides)
    return chosen_NxO, rejected_NxO


def moments(form: Form, outputs_NxO: Array) -> RewardMoments:
    """Mean and variance of every response's reward."""
    return (normal_moments if form == "mean_variance" else categorical_moments)(outputs_NxO)


def log_prob(form: Form, link: Any, chosen_NxO: Array, rejected_NxO: Array) -> Array:
    """``log P(chosen wins)``: (N,), in nats."""
    if form == "categorical":
        return categorical_log_prob(chosen_NxO, rejected_NxO)
    return normal_log_prob(normal_moments(chosen_NxO), normal_moments(rejected_NxO), link)


@partial(jax.jit, static_argnames=("form", "options", "config"))
def fit_outputs(
    form: Form,
    options: DplConfig,
    config: TrainConfig,
    params: Any,
    train: Sides,
    validation: Sides,
    key: Array,
) -> tuple[Any, Curves]:
    """Minimise the negative log-likelihood and the form's penalty over ``config.epochs`` passes.

    Returns the parameters of the epoch with the best validation NLL or the last ones, as
    ``config.select`` asks for, and the curves.
    """
    count, validated = train.chosen_NxD.shape[0], validation.chosen_NxD.shape[0] > 0

    def loss(params: Any, _fixed: None, batch: Batches) -> tuple[Array, dict[str, Array]]:
        sides = Sides(train.chosen_NxD[batch.rows], train.rejected_NxD[batch.rows])
        outputs, mask_B = apply_outputs(params, sides), batch.mask
        nll = -jnp.sum(log_prob(form, options.link, *outputs) * mask_B) / jnp.sum(mask_B)
        if form == "categorical":
            return nll + options.entropy_bonus * batch_negative_entropy(*outputs, mask_B), {}
        chosen, rejected = (normal_moments(output) for output in outputs)
        return nll + options.variance_penalty * variance_penalty(chosen, rejected, mask_B), {}

    def validate(params: Any) -> Array:
        return -jnp.mean(log_prob(form, options.link, *apply_outputs(params, validation)))

    return run_epochs(
        Stopping(config.epochs, keep_best=config.select == "best" and validated),
        params,
        make_optimiser(config, total_steps(config, count)),
        loss,
        shuffle_rows(key, count, config.batch_size),
        validate if validated else None,
    )


def _fit(form: Form, problem: Problem, _done: Mapping[str, Trained]) -> Trained:
    options = problem.baselines.dpl
    outputs = options.atoms if form == "categorical" else 2
    params = init_outputs(
        problem.width, outputs, options.init_scale, jax.random.fold_in(problem.key, INIT_STREAM)
    )
    train, validation = problem.train.load_sides(), problem.validation.load_sides()
    params, curves = fit_outputs(
        form,
        options,
        problem.train_config,
        params,
        train,
        validation,
        jax.random.fold_in(problem.key, SHUFFLE_STREAM),
    )
    error = divergence(f"training the {form} form of dpl", np.asarray(curves.bad_step), REMEDY)
    if error is not None:
        raise error
    # Fitted rows look better explained than they are, so others judge where there are any.
    judged = validation if len(validation.chosen_NxD) else train
    responses = moments(form, jnp.concatenate(apply_outputs(params, judged)))
    return Trained(
        jax.tree.map(np.asarray, params),
        asdict(options)
        | {
            "form": form,
            "r2": float(explained_share(responses)),
            "first_loss": float(curves.first_loss[0]),
        },
        {
            "objective": np.asarray(curves.objective),
            "validation_nll": np.asarray(curves.validation_nll),
        },
    )


def _predict(trained: Trained, examples: Examples) -> Prediction:
    form, link = trained.settings["form"], trained.settings["link"]
    chosen, rejected = apply_outputs(trained.params, examples.load_sides())
    wins_N = log_prob(form, link, chosen, rejected)
    if form == "categorical":
        statistic_N = wins_N - log_prob(form, link, rejected, chosen)
    else:
        statistic_N = moments(form, chosen).mean_N - moments(form, rejected).mean_N
    return Prediction(
        np.asarray(statistic_N, np.float64)[None], np.asarray(wins_N, np.float64)[None]
    )


DPL = Method(
    "dpl",
    "A reward with a mean and a spread per response; spread stands for tastes nobody recorded.",
    stage="train",
    fit=partial(_fit, "mean_variance"),
    predict=_predict,
)
DPL_CATEGORICAL = Method(
    "dpl_categorical",
    "A reward that is a distribution over fixed levels per response.",
    stage="train",
    fit=partial(_fit, "categorical"),
    predict=_predict,
)
