"""Router weights of the example prompts of a report, as ``micro-rm score`` gives them."""

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
    """``weights_of`` with the backbone of a run.

    Raises ``ConfigError`` if that is not at hand or cannot read a prompt.
    """
    try:
        return weights_of(load(run, device=device), prompts)
    except UserError as error:
        raise ConfigError(
            f"report.prompts: the router weights of {len(prompts)} prompts need the backbone of "
            f"the run ({error}); leave report.prompts out for a report without them"
        ) from error


def weights_of(model: Model, prompts: Sequence[ExamplePrompt]) -> list[dict[str, dict[str, Any]]]:
    """Per prompt and routing method the weights of K heads ``without`` and ``with`` the wish.

    ``with`` is None where there is no wish.
    """
    wished = [place for place, one in enumerate(prompts) if one.context]
    texts = [one.prompt for one in prompts] + [prompts[place].prompt for place in wished]
    wishes = [None] * len(prompts) + [prompts[place].context for place in wished]
    rows: list[dict[str, dict[str, Any]]] = [{} for _ in prompts]
    for name in model.methods:
        if not load_method(name).routes:
            continue
        # Weights depend on no response.
        scores = model.score(texts, [""] * len(texts), wishes, method=name)
        for row, score in zip(rows, scores, strict=False):
            row[name] = {"without": score.weights, "with": None}
        for place, score in zip(wished, scores[len(prompts) :], strict=True):
            rows[place][name]["with"] = score.weights
    return rows
