"""The persona of a collapsed export: fixed weights over heads folded onto unscaled vectors."""

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
from .probes import PROMPTS


class ExportError(UserError):
    """A run cannot be exported as requested; the message says what to change."""


@dataclass(frozen=True)
class Persona:
    """Fixed head weights (K,) with a description of their origin.

    ``spread`` is the largest total variation distance between the router's weights for one prompt
    and the fixed ones, hence what is lost by fixing them; 0 if the weights do not depend on the
    prompt.
    """

    weights_K: np.ndarray
    origin: str
    spread: float = 0.0


def raw_heads(scorer: Scorer, method: str) -> np.ndarray:
    """Fold the feature scaling into the heads: (K, D) float64, with reward = vector . head.

    Raises ``ExportError`` for a method whose reward is not linear in the vector.
    """
    params = scorer.models[method].params if method in scorer.models else {}
    if "head" in params:
        heads_DxK = np.asarray(params["head"], np.float64)[:, None]
    elif set(params.get("heads", ())) == {"kernel"}:
        heads_DxK = np.asarray(params["heads"]["kernel"], np.float64)
    else:
        raise ExportError(
            f"export.method: expected a method with linear heads ({', '.join(scorer.names)}), "
            f"found {method!r}"
        )
    return (heads_DxK / scorer.scaler.delta_scale_D[:, None]).T


def choose_method(model: Model, config: ExportConfig) -> str:
    """Choose the method to export: the one named, one adapted to the group, or the default.

    Raises ``ExportError`` if the run has no such method.
    """
    names = model.methods
    if config.method is not None:
        if config.method not in names:
            raise ExportError(
                f"export.method: expected one of {', '.join(names) or 'none here'}, found "
                f"{config.method!r}"
            )
        return config.method
    if config.group is not None:
        for name in names:
            if config.group in model.scorer.groups(name):
                return name
        known = sorted({group for name in names for group in model.scorer.groups(name)})
        raise ExportError(
            f"export.group: expected one that a method was adapted to "
            f"({', '.join(known) or 'none in this run; train micro_hyre'}), found {config.group!r}"
        )
    return model.default_method(has_context=bool(config.context) or config.tier != "collapsed")


def choose_persona(model: Model, method: str, config: ExportConfig) -> Persona:
    """Determine the head weights of the persona that the configuration describes.

    Explicit weights come first, then those of a group, then those of a single head or of a method
    whose weights are constant, and last the router's for the context and prompts. Raises
    ``ExportError`` if the configuration does not determine them.
    """
    heads = raw_heads(model.scorer, method).shape[0]
    if config.weights:
        if len(config.weights) != heads:
            raise ExportError(
                f"export.weights: {method} has {heads} heads, found {len(config.weights)} weights"
            )
        weights_K = np.asarray(config.weights, np.float64)
        return Persona(weights_K / weights_K.sum(), "given in numbers")
    if config.group is not None:
        return _group_persona(model, method, config.group)
    if heads == 1:
        return Persona(np.ones(1), "the only head")
    if load_method(method).given == "group":
        raise ExportError(
            f"export.group: {method} weighs its heads for one of "
            f"{', '.join(model.scorer.groups(method))}; name one, or give export.weights"
        )
    if not load_method(method).routes:
        weights_NxK = _router_weights(model, method, [PROMPTS[0]], None)
        return Persona(weights_NxK[0], "the same for every prompt")
    return _routed_persona(model, method, config)


def _routed_persona(model: Model, method: str, config: ExportConfig) -> Persona:
    """Mean of the router's weights over prompts, under the context if there is one."""
    if not config.context and not config.prompts:
        raise ExportError(
            f"export.context: the weights of {method} depend on the context or the prompt; give "
            "export.context, export.prompts, export.group or export.weights"
        )
    prompts = config.prompts or list(PROMPTS)
    weights_NxK = _router_weights(model, method, prompts, config.context)
    mean_K = weights_NxK.mean(axis=0)
    spread = float(0.5 * np.abs(weights_NxK - mean_K).sum(axis=1).max())
    whose = "prompts without a context" if not config.context else "prompts with the context"
    if config.context and model.views.adapt_router == "context":
        return Persona(weights_NxK[0], "the router's for the context, which is all that it reads")
    what = f"{len(prompts)} {'given' if config.prompts else 'neutral'} {whose}"
    return Persona(mean_K, f"the router's, averaged over {what}", spread)


def _group_persona(model: Model, method: str, group: str) -> Persona:
    """Weights that a method learnt for one attribute or user."""
    known = model.scorer.groups(method)
    if load_method(method).given != "group" or group not in known:
        raise ExportError(
            f"export.group: {method} was adapted to {', '.join(known) or 'no group'}, found "
            f"{group!r}; name a method that was, or give export.context"
        )
    # Weights of a group depend on no text.
    vector_1xD = np.zeros((1, model.scorer.width), np.float32)
    scores = model.scorer.score(method, vector_1xD, vector_1xD, [group])
    return Persona(scores.weights_NxK[0], f"those that {method} learnt for {group}")


def _router_weights(
    model: Model, method: str, prompts: Sequence[str], context: str | None
) -> np.ndarray:
    """(N, K) weights of a method's router for N prompts under one context."""
    pairs = [
        PreferencePair(messages(prompt), "", "", split="test", source="export", context=context)
        for prompt in prompts
    ]
    router_NxD = model.router_vectors(pairs)
    return model.scorer.score(method, np.zeros_like(router_NxD), router_NxD).weights_NxK
