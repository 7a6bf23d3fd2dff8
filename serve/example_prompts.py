"""Router weights of the example prompts in a report, equal to those of ``micro-rm score``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.errors import ConfigError, UserError
from ..configs.report import ExamplePrompt
from ..heads.methods import load_method
from .model import Model, load


def route_prompts(
    run: str | Path, prompts: Sequence[ExamplePrompt], *, device: str = "auto"
) -> list[dict[str, dict[str, Any]]]:
    """Load the model of a run and return ``router_weights`` of the prompts.

    Raises ``ConfigError`` if the backbone is unavailable or cannot encode a prompt.
    """
    try:
        return router_weights(load(run, device=device), prompts)
    except UserError as error:
        raise ConfigError(
            f"report.prompts: the router weights of {len(prompts)} prompts need the backbone of "
            f"the run ({error}); leave report.prompts out for a report without them"
        ) from error


def router_weights(
    model: Model, prompts: Sequence[ExamplePrompt]
) -> list[dict[str, dict[str, Any]]]:
    """Weights of the K heads per prompt and routing method, ``without`` and ``with`` its context.

    ``with`` is None for a prompt without a context.
    """
    # Every prompt once without a context, then those that have one again with it.
    with_context = [index for index, one in enumerate(prompts) if one.context]
    texts = [one.prompt for one in prompts] + [prompts[index].prompt for index in with_context]
    contexts = [None] * len(prompts) + [prompts[index].context for index in with_context]
    rows: list[dict[str, dict[str, Any]]] = [{} for _ in prompts]
    for name in model.methods:
        if not load_method(name).routes:
            continue
        # Router weights do not depend on the response.
        scores = model.score(texts, [""] * len(texts), contexts, method=name)
        for row, score in zip(rows, scores, strict=False):
            row[name] = {"without": score.weights, "with": None}
        for index, score in zip(with_context, scores[len(prompts) :], strict=True):
            rows[index][name]["with"] = score.weights
    return rows
