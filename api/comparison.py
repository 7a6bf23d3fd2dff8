"""Compare runs on the test rows that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.schema import StoreError
from ..common.errors import require
from ..configs.schema import EvaluateConfig
from ..run_dir.report_json import read_report_json
from .run import Run, rendered

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def compare(
    *runs: Run | str | Path,
    methods: Sequence[str] = (),
    against: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare the methods of some runs with those of the first, paired over the rows they share.

    The runs may differ in anything but their test rows: settings, K, seeds, backbone, views, store.
    All differences are one family (see docs/statistics.md).

    Args:
        runs: Two or more runs, or their directories; all evaluated.
        methods: Methods to compare; by default all that a later run has.
        against: Method of the first run that a method is compared with if the first run lacks it;
            by default single_bt.
        confidence: Coverage of the intervals.

    Raises:
        StoreError: A run has not been evaluated.
        UserError: The runs share no test rows, or these have other labels, or no later run has any
            of ``methods``.
        ConfigError: There are fewer than two runs.

    Example: ``print(mrm.compare("runs/k5", "runs/k10", methods=["micro"]))``
    """
    from ..heads.evaluation.across_runs import ScoredRun, compare_runs
    from ..heads.evaluation.saved import read_scores

    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    require(len(opened) > 1, "compare", "two or more runs", len(opened))
    names = _names([run.dir for run in opened])
    scored = [
        ScoredRun(name, read_scores(run.dir), _given(run.dir))
        for name, run in zip(names, opened, strict=True)
    ]
    content = compare_runs(scored, methods, against, EvaluateConfig(confidence))
    settings = [_flat(asdict(run.config)) for run in opened]
    content["settings"] = {
        key: dict(zip(names, values, strict=True))
        for key in dict.fromkeys(key for one in settings for key in one)
        if key != "run.dir" and _differ(values := [one.get(key) for one in settings])
    }
    content["runs"] = dict(zip(names, (str(run.dir) for run in opened), strict=True))
    return Comparison(content)


class Comparison:
    """Differences between runs. ``print`` shows the table; ``content`` holds every number."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per difference, with its interval, p-values and what they say."""
        return [dict(item) for item in self.content["comparisons"]]

    def frame(self) -> pd.DataFrame:
        """``rows`` as a pandas data frame. Needs pandas."""
        from .frames import frame

        return frame(self.rows())

    def plot(self) -> Figure:
        """A matplotlib figure of the differences with their intervals; it is not shown."""
        from ..display.plots import difference_figure

        return difference_figure(self.content)

    def __str__(self) -> str:
        from ..display.comparison import comparison_parts

        return rendered(comparison_parts(self.content))

    __repr__ = __str__


def _given(run: Path) -> dict[str, str]:
    """What each method of a run is given at test time."""
    try:
        report = read_report_json(run)
        return {name: entry["given"] for name, entry in report["methods"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{run}: cannot be compared ({error}); run micro-rm evaluate, or evaluate() of the run"
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names of run directories: as much of the end of each path as tells them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(paths, 1)]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key."""
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values[1:])
