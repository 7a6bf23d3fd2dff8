"""The persona of a collapsed export: linear heads over unscaled vectors, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...common.errors import UserError
from ...configs.export import ExportConfig
from ...embed.sources.pair import PreferencePair
from ...heads.methods import load_method
from ...heads.scoring import Scorer
from ..model import Model, messages
from .fixed_texts import PROMPTS


class ExportError(UserError):
    """A run cannot be exported as requested; the message says what to change."""


@dataclass(frozen=True)
class Persona:
    """Fixed weights of the heads.

    Attributes:
        weights_K: Weights (K,), on the simplex.
        origin: Where the weights come from, in words.
        spread: Largest total variation distance, 0 to 1, between the fixed weights and the
            router's for one of the prompts: a measure of what fixing them loses. 0 if the weights
            do not depend on the prompt.
    """

    weights_K: np.ndarray
    origin: str
    spread: float = 0.0


def raw_heads(scorer: Scorer, method: str) -> np.ndarray:
    """Fold the feature scaling into a method's linear heads, so that they read unscaled vectors.

    Args:
        scorer: The run's methods.
        method: Name of the method.

    Returns:
        Heads (K, D) in float64. Head rewards are the products ``vectors_NxD @ heads_KxD.T``.

    Raises:
        ExportError: The method's rewards are not linear in the vector.
    """
    params = scorer.models[method].params if method in scorer.models else {}
    if "head" in params:
        heads_DxK = np.asarray(params["head"], np.float64)[:, None]
    elif set(params.get("heads", ())) == {"kernel"}:
        heads_DxK = np.asarray(params["heads"]["kernel"], np.float64)
    else:
        raise ExportError(
            f"export.method: expected a method with linear heads "
            f"({', '.join(scorer.names) or 'this run has none'}), found {method!r}"
        )
    return (heads_DxK / scorer.scaler.delta_scale_D[:, None]).T


def choose_method(model: Model, config: ExportConfig) -> str:
    """Choose the method to export.

    It is ``config.method`` if given, else the first method that was adapted to ``config.group``,
    else the one that ``micro-rm score`` would use.

    Raises:
        ExportError: The run has no such method.
    """
    names = model.methods
    if config.method is not None:
        if config.method not in names:
            raise ExportError(
                f"export.method: expected a method of the run that scores single responses "
                f"({', '.join(names) or 'it has none'}), found {config.method!r}"
            )
        return config.method
    if config.group is not None:
        for name in names:
            if config.group in model.scorer.groups(name):
                return name
        known = sorted({group for name in names for group in model.scorer.groups(name)})
        raise ExportError(
            f"export.group: expected a group that a method was adapted to "
            f"({', '.join(known) or 'none in this run; train micro_hyre'}), found {config.group!r}"
        )
    return model.default_method(has_context=bool(config.context) or config.tier != "collapsed")


def choose_persona(model: Model, method: str, config: ExportConfig) -> Persona:
    """Choose the head weights of the persona that a configuration describes.

    Explicit weights take precedence, then those of the group. A single head has weight 1, and a
    method without a router has constant weights. Otherwise, the weights are the router's for the
    context, averaged over the prompts.

    Args:
        model: The trained run.
        method: Name of the method, which must have linear heads.
        config: Weights, group, context and prompts; only one of the first three is given.

    Returns:
        The weights (K,), their origin and their spread.

    Raises:
        ExportError: The configuration does not determine the weights.
    """
    num_heads = raw_heads(model.scorer, method).shape[0]
    if config.weights:
        if len(config.weights) != num_heads:
            raise ExportError(
                f"export.weights: expected {num_heads} weights, one per head of {method}, found "
                f"{len(config.weights)}"
            )
        weights_K = np.asarray(config.weights, np.float64)
        return Persona(weights_K / weights_K.sum(), "given as export.weights")
    if config.group is not None:
        return _group_persona(model, method, config.group)
    if num_heads == 1:
        return Persona(np.ones(1), "there is only one head")
    if load_method(method).given == "group":
        raise ExportError(
            f"export.group: the weights of {method} depend on the group, found none; give one of "
            f"{', '.join(model.scorer.groups(method))}, or export.weights"
        )
    if not load_method(method).routes:
        weights_NxK = _router_weights(model, method, [PROMPTS[0]], None)
        return Persona(weights_NxK[0], "the same for every prompt")
    return _routed_persona(model, method, config)


def _routed_persona(model: Model, method: str, config: ExportConfig) -> Persona:
    """Mean of the router's weights over prompts, with the context if there is one."""
    if not config.context and not config.prompts:
        raise ExportError(
            f"export.context: the weights of {method} depend on the context or the prompt, found "
            "neither; give export.context, export.prompts, export.group or export.weights"
        )
    prompts = config.prompts or list(PROMPTS)
    weights_NxK = _router_weights(model, method, prompts, config.context)
    mean_K = weights_NxK.mean(axis=0)
    spread = float(0.5 * np.abs(weights_NxK - mean_K).sum(axis=1).max())
    if config.context and model.views.adapt_router == "context":
        return Persona(weights_NxK[0], "the router's for the context, which is its only input")
    kind = "given" if config.prompts else "neutral"
    suffix = "with the context" if config.context else "without a context"
    origin = f"the router's, averaged over {len(prompts)} {kind} prompts {suffix}"
    return Persona(mean_K, origin, spread)


def _group_persona(model: Model, method: str, group: str) -> Persona:
    """The weights that a method learnt for one attribute or user."""
    known = model.scorer.groups(method)
    if load_method(method).given != "group" or group not in known:
        raise ExportError(
            f"export.group: expected a group that {method} was adapted to "
            f"({', '.join(known) or 'none'}), found {group!r}; choose another "
            "export.method, or give export.context"
        )
    # The weights of a group do not depend on the text, so any vector will do.
    vector_1xD = np.zeros((1, model.scorer.width), np.float32)
    scores = model.scorer.score(method, vector_1xD, vector_1xD, [group])
    return Persona(scores.weights_NxK[0], f"learnt by {method} for {group}")


def _router_weights(
    model: Model, method: str, prompts: Sequence[str], context: str | None
) -> np.ndarray:
    """Weights (N, K) of a method's router for N prompts with the same context."""
    pairs = [
        PreferencePair(messages(prompt), "", "", split="test", source="export", context=context)
        for prompt in prompts
    ]
    router_NxD = model.router_vectors(pairs)
    return model.scorer.score(method, np.zeros_like(router_NxD), router_NxD).weights_NxK
