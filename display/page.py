"""Render ``report.html`` and ``sweep.html``: self-contained pages that escape every text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ..common.redact import escape_controls, redact
from ..heads.evaluation.naming import profiles
from ..heads.evaluation.prompts import panels
from ..heads.evaluation.rows import ORACLE, VALIDATED, labelled_rows, owner_of
from .forest import column_ranks, forest
from .plots import study_curves, training_curves
from .reproduce import command
from .tables import best_method, p_text

TEMPLATE, SWEEP_TEMPLATE = "report.html.j2", "sweep.html.j2"
SHOWN_SETTINGS = 20
# A longer text of an example is folded after this many characters.
PREVIEW_CHARACTERS = 240
# Most heads shown with their weight on an example.
MAX_SHOWN_HEADS = 4


def render_page(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Render the page of a report.

    Args:
        report: The content of ``report.json``.
        curves: Training curves, one value per epoch, by method and kind.

    Returns:
        The HTML text.
    """
    methods = report["methods"]
    attributes = list(next(iter(methods.values()))["attributes"])
    counts = {name: methods[best_method(report)]["attributes"][name]["n"] for name in attributes}
    # An oracle is an upper bound and cannot win a column.
    candidates = [name for name in methods if not name.endswith(ORACLE)]
    winners = {
        attribute: max(candidates, key=lambda m: methods[m]["attributes"][attribute]["accuracy"])
        for attribute in attributes
    }
    titles = {
        name: f"{label.strip()} of {owner_of(name)}" if label != name else name
        for name, label in labelled_rows(methods)
    }
    mixtures = {
        name: {
            **heads,
            "largest_weight": _weight_scale(heads),
            "profiles": profiles(heads, counts),
        }
        for name, heads in _shown_first(report).items()
        if len(heads["usage"]) > 1
    }
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            comparisons=report["published"],
            attributes=attributes,
            counts=counts,
            winners=winners,
            best=best_method(report),
            p_text=p_text,
            rows=labelled_rows(methods),
            titles=titles,
            single_heads=[name for name in methods if name.endswith((ORACLE, VALIDATED))],
            forest=forest(report),
            column_ranks=column_ranks(report, attributes),
            mixtures=mixtures,
            prompts=_prompt_rows(report, mixtures),
            command=command(report["record"].get("config", {})),
            curves=[Markup(figure) for figure in training_curves(curves)],
            study_figures=_figures(report["studies"]),
        )
    )


def render_sweep_page(
    sweep: Mapping[str, Any], dataset: str, caveats: Sequence[str], confidence: float
) -> str:
    """Render the page of a sweep.

    Args:
        sweep: The summary of the sweep.
        dataset: Name of the data set.
        caveats: Sentences that qualify the data.
        confidence: Level of the intervals over seeds.

    Returns:
        The HTML text.
    """
    return (
        _environment()
        .get_template(SWEEP_TEMPLATE)
        .render(
            sweep=sweep,
            dataset=dataset,
            caveats=caveats,
            confidence=confidence,
            shown=SHOWN_SETTINGS,
            study_figures=_figures(sweep["studies"]),
        )
    )


def _environment() -> jinja2.Environment:
    """A Jinja environment of the package's templates that escapes every text."""
    folder = resources.files(__name__.rpartition(".")[0]) / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=sanitize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shade": shade, "preview": preview, "hundredths": hundredths}
    environment.globals |= {
        "xs": _xs,
        "at": _at,
        "preview_characters": PREVIEW_CHARACTERS,
        "strongest": strongest,
    }
    return environment


def sanitize(value: Any) -> Any:
    """Redact secrets and spell out control characters in a value that a template prints.

    Jinja escapes the result afterwards; ``Markup`` and values other than strings pass unchanged.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(redact(value))
    return value


def _shown_first(report: Mapping[str, Any]) -> dict[str, Any]:
    """The heads by method, with the method of the gallery in first position."""
    gallery, heads = report["gallery"], report["heads"]
    if gallery is None or gallery["method"] not in heads:
        return dict(heads)
    return {gallery["method"]: heads[gallery["method"]], **heads}


def _prompt_rows(report: Mapping[str, Any], mixtures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reader's own prompts, each with a panel of router weights per method."""
    named = {name: heads["profiles"] for name, heads in mixtures.items()}
    prompts = report["prompts"]
    rows = [] if prompts is None else prompts["rows"]
    return [{**row, "panels": panels(row["weights"], named)} for row in rows]


def _figures(studies: Mapping[str, Any]) -> dict[str, list[Markup]]:
    return {
        name: [Markup(figure) for figure in study_curves(study)] for name, study in studies.items()
    }


def _xs(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
    """The distinct x of all series, in order of first appearance."""
    return list(dict.fromkeys(point["x"] for points in series.values() for point in points))


def _at(points: Sequence[Mapping[str, Any]], x: float) -> Mapping[str, Any] | None:
    """The point of a series at x; None if it has none."""
    return next((point for point in points if point["x"] == x), None)


def shade(value: float, low: float, high: float) -> str:
    """CSS colour of a heat map cell: red below the middle of [low, high], blue above it.

    >>> shade(1.0, 0.0, 1.0), shade(0.5, 0.0, 1.0)
    ('rgba(59, 111, 212, 0.75)', 'rgba(212, 99, 59, 0.00)')
    """
    middle, half = (low + high) / 2, (high - low) / 2
    strength = max(-1.0, min(1.0, (value - middle) / half))
    hue = "59, 111, 212" if strength > 0 else "212, 99, 59"
    return f"rgba({hue}, {abs(strength) * 0.75:.2f})"


def preview(text: str) -> str:
    """Shorten a text to ``PREVIEW_CHARACTERS`` characters, if possible at the end of a word."""
    if len(text) <= PREVIEW_CHARACTERS:
        return text
    start = text[:PREVIEW_CHARACTERS]
    # A single long word is cut in the middle rather than dropped.
    words = start.rsplit(maxsplit=1)[0]
    return f"{words if len(words) > PREVIEW_CHARACTERS / 2 else start} …"


def hundredths(value: float) -> str:
    """Format with two decimals, without a minus sign before zero.

    >>> hundredths(-0.001)
    '0.00'
    """
    return f"{round(value, 2) + 0.0:.2f}"


def strongest(weights: Sequence[float]) -> list[tuple[int, float]]:
    """The at most ``MAX_SHOWN_HEADS`` heads with the largest weights, as ``(index, weight)``.

    Weights that would print as 0.00 are left out.
    """
    ranked = sorted(enumerate(weights), key=lambda item: -item[1])
    return [item for item in ranked[:MAX_SHOWN_HEADS] if item[1] >= 0.005]


def _weight_scale(heads: Mapping[str, Any]) -> float:
    """The weight drawn in the strongest shade, at least 3/K so that uniform weights look pale."""
    return max(3 / len(heads["usage"]), *map(max, heads["weights"].values()))
