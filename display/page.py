"""``report.html`` from ``report.json``: one self-contained file, every text escaped and shown."""

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
from ..heads.evaluation.verdict import standing
from .forest import forest, orders
from .plots import study_curves, training_curves
from .reproduce import command
from .tables import best_method

TEMPLATE, SWEEP_TEMPLATE = "report.html.j2", "sweep.html.j2"
SHOWN_SETTINGS = 20
# Characters of an example that are shown at once; the rest unfolds.
AT_ONCE = 240
# Heads that are shown of an example's weights.
HEARD = 4


def render_page(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of a report. ``curves`` are those of each trained method."""
    methods = report["methods"]
    attributes = list(next(iter(methods.values()))["attributes"])
    counts = {name: methods[best_method(report)]["attributes"][name]["n"] for name in attributes}
    rivals = [name for name in methods if not name.endswith(ORACLE)]
    winners = {
        attribute: max(rivals, key=lambda m: methods[m]["attributes"][attribute]["accuracy"])
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
            standing=standing,
            rows=labelled_rows(methods),
            titles=titles,
            single_heads=[name for name in methods if name.endswith((ORACLE, VALIDATED))],
            forest=forest(report),
            orders=orders(report, attributes),
            mixtures=mixtures,
            typed=_typed(report, mixtures),
            command=command(report["record"].get("config", {})),
            curves=[Markup(figure) for figure in training_curves(curves)],
            study_figures=_figures(report["studies"]),
        )
    )


def render_sweep_page(
    sweep: Mapping[str, Any], dataset: str, caveats: Sequence[str], confidence: float
) -> str:
    """The page of a sweep's summary."""
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
    """The package's templates, with every text escaped."""
    folder = resources.files(__name__.rpartition(".")[0]) / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shade": shade, "beginning": beginning, "hundredths": hundredths}
    environment.globals |= {"xs": _xs, "at": _at, "at_once": AT_ONCE, "strongest": strongest}
    return environment


def harmless(value: Any) -> Any:
    """What a template shows: control characters spelled out, secrets left out.

    Markup is escaping apart, which Jinja does after this.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_controls(redact(value))
    return value


def _shown_first(report: Mapping[str, Any]) -> dict[str, Any]:
    """The heads of every method, those that the gallery looks at first."""
    gallery, heads = report["gallery"], report["heads"]
    if gallery is None or gallery["method"] not in heads:
        return dict(heads)
    return {gallery["method"]: heads[gallery["method"]], **heads}


def _typed(report: Mapping[str, Any], mixtures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reader's own prompts with the bars of every method."""
    named = {name: heads["profiles"] for name, heads in mixtures.items()}
    kept = report["prompts"]
    rows = [] if kept is None else kept["rows"]
    return [{**row, "panels": panels(row["weights"], named)} for row in rows]


def _figures(studies: Mapping[str, Any]) -> dict[str, list[Markup]]:
    return {
        name: [Markup(figure) for figure in study_curves(study)] for name, study in studies.items()
    }


def _xs(series: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
    """Every x of some series, once."""
    return list(dict.fromkeys(point["x"] for points in series.values() for point in points))


def _at(points: Sequence[Mapping[str, Any]], x: float) -> Mapping[str, Any] | None:
    """The point at x, if the series has one."""
    return next((point for point in points if point["x"] == x), None)


def shade(value: float, low: float, high: float) -> str:
    """A CSS colour for a cell: red below the middle of [low, high], blue above, clear at it."""
    middle, half = (low + high) / 2, (high - low) / 2
    strength = max(-1.0, min(1.0, (value - middle) / half))
    hue = "59, 111, 212" if strength > 0 else "212, 99, 59"
    return f"rgba({hue}, {abs(strength) * 0.75:.2f})"


def beginning(text: str) -> str:
    """What is shown of a text at once: at most ``AT_ONCE`` characters, up to the end of a word."""
    if len(text) <= AT_ONCE:
        return text
    head = text[:AT_ONCE]
    words = head.rsplit(maxsplit=1)[0]
    return f"{words if len(words) > AT_ONCE / 2 else head} …"


def hundredths(value: float) -> str:
    """Two digits, without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def strongest(weights: Sequence[float]) -> list[tuple[int, float]]:
    """The heads with the largest weights, at most ``HEARD``, and how large those are."""
    ranked = sorted(enumerate(weights), key=lambda item: -item[1])
    return [item for item in ranked[:HEARD] if item[1] >= 0.005]


def _weight_scale(heads: Mapping[str, Any]) -> float:
    """Weight of the strongest shade; large enough that uniform weights look uncertain."""
    return max(3 / len(heads["usage"]), *map(max, heads["weights"].values()))
