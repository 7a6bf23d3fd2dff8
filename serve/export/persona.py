"""Whose reward a collapsed export is: its heads in the backbone's own units, and their weights."""

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
    """A run cannot be exported as asked; the message says what to change."""


@dataclass(frozen=True)
class Persona:
    """Fixed weights (K,) of the heads and where they come from, in a sentence.

    ``spread`` is the largest total variation distance of the weights of one prompt from them: what
    a router that reads the prompt loses by being fixed. 0 where nothing is lost.
    """

    weights_K: np.ndarray
    origin: str
    spread: float = 0.0


def raw_heads(scorer: Scorer, method: str) -> np.ndarray:
    """(K, D) heads of a method over unscaled vectors, float64: reward = vector . head.

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
    """The method to export. Raises ``ExportError`` if there is none of the name or kind."""
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
    return model.default_method(wish=bool(config.context) or config.tier != "collapsed")


def choose_persona(model: Model, method: str, config: ExportConfig) -> Persona:
    """The weights that the configuration names. Raises ``ExportError`` if it names too little."""
    heads = raw_heads(model.scorer, method).shape[0]
    if config.weights:
        if len(config.weights) != heads:
            raise ExportError(
                f"export.weights: {method} has {heads} heads, found {len(config.weights)} weights"
            )
        given_K = np.asarray(config.weights, np.float64)
        return Persona(given_K / given_K.sum(), "given in numbers")
    if config.group is not None:
        return _of_group(model, method, config.group)
    if heads == 1:
        return Persona(np.ones(1), "the only head")
    if load_method(method).told == "group":
        raise ExportError(
            f"export.group: {method} weighs its heads for one of "
            f"{', '.join(model.scorer.groups(method))}; name one, or give export.weights"
        )
    if not load_method(method).routes:
        return Persona(_weights(model, method, [PROMPTS[0]], None)[0], "the same for every prompt")
    return _of_wish(model, method, config)


def _of_wish(model: Model, method: str, config: ExportConfig) -> Persona:
    if not config.context and not config.prompts:
        raise ExportError(
            f"export.context: the weights of {method} depend on the wish or the prompt; give "
            "export.context, export.prompts, export.group or export.weights"
        )
    prompts = config.prompts or list(PROMPTS)
    weights_NxK = _weights(model, method, prompts, config.context)
    mean_K = weights_NxK.mean(axis=0)
    spread = float(0.5 * np.abs(weights_NxK - mean_K).sum(axis=1).max())
    whose = "prompts without a wish" if not config.context else "prompts with the wish"
    if config.context and model.views.adapt_router == "context":
        return Persona(weights_NxK[0], "the router's for the wish, which is all that it reads")
    what = f"{len(prompts)} {'given' if config.prompts else 'neutral'} {whose}"
    return Persona(mean_K, f"the router's, averaged over {what}", spread)


def _of_group(model: Model, method: str, group: str) -> Persona:
    known = model.scorer.groups(method)
    if load_method(method).told != "group" or group not in known:
        raise ExportError(
            f"export.group: {method} was adapted to {', '.join(known) or 'no group'}, found "
            f"{group!r}; name a method that was, or give export.context"
        )
    vector_1xD = np.zeros((1, model.scorer.width), np.float32)
    found = model.scorer.score(method, vector_1xD, vector_1xD, [group])
    return Persona(found.weights_NxK[0], f"those that {method} learnt for {group}")


def _weights(model: Model, method: str, prompts: Sequence[str], context: str | None) -> np.ndarray:
    """(N, K) weights that a method gives prompts under a wish, by the vectors its router reads."""
    pairs = [
        PreferencePair(messages(prompt), "", "", split="test", source="export", context=context)
        for prompt in prompts
    ]
    router_NxD = model.router_vectors(pairs)
    return model.scorer.score(method, np.zeros_like(router_NxD), router_NxD).weights_NxK
