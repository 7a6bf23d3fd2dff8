"""Many settings and seeds over one pair table, compiled together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.fingerprint import fingerprint
from ..common.imports import permanent_imports
from ..configs.schema import Config
from ..run_dir import freshness
from ..run_dir.record import RunRecord, recording_files
from .progress import working_on
from .run import Run, rendered, table_config
from .settings import Settings
from .store import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..heads.sweeps.processes import Share
    from ..heads.sweeps.run import SweepCounts, Tell


def sweep(
    data: Table,
    grid: Mapping[str, Iterable[Any]],
    *,
    methods: Sequence[str] = ("micro_stage1", "micro"),
    dir: str | Path = "runs/sweep",
    settings: Settings | None = None,
    progress: bool = True,
) -> Sweep:
    """Fit and score every combination of some values; what the directory already has is kept.

    Members that share their shapes are trained as one compiled program.

    Args:
        data: Pair table of a store.
        grid: Values by dotted key, such as ``{"train.num_heads": [2, 5], "run.seed": range(3)}``;
            keys of train, adapt, views and baselines, and run.seed.
        methods: Names of methods; what a method comes after is fitted, too.
        dir: Run directory of the sweep.
        settings: More keys of the configuration, the same for every member.
        progress: Show progress on a terminal or in a notebook.

    Raises:
        ConfigError: A key is unknown or cannot be swept, or a value is out of range.
        StudyError: The data cannot serve a method.
    """
    config = table_config(
        data,
        settings,
        run={"dir": str(dir)},
        sweep={
            "grid": {key: list(values) for key, values in grid.items()},
            "methods": list(methods),
        },
    )
    with permanent_imports():
        from ..heads.sweeps.processes import Share

    with working_on("sweep", progress):
        fit_sweep(config, Share(0, 1), lambda *_counts: None)
    return Sweep._of(config)


def fit_sweep(config: Config, share: Share, tell: Tell) -> SweepCounts:
    """Fit this process's share of a sweep's members, and record it.

    ``tell`` is called after each group with the members done, those to do, and those that failed.
    """
    from ..heads.sweeps.run import run_sweep
    from ..heads.sweeps.table import locked

    run = Path(config.run.dir)
    run.mkdir(parents=True, exist_ok=True)
    record = RunRecord(run, config)
    request = freshness.table_fingerprint(config)
    # One process of a job keeps the record.
    guard = partial(locked, run)
    stage = record.stage("sweep", fingerprint(request, config.sweep), guard)
    with recording_files(run, guard), stage if share.part == 0 else nullcontext({}) as notes:
        counts = run_sweep(config, freshness.stored_table_fingerprint(config), share, tell)
        notes |= {"fitted": counts.fitted, "before": counts.before, "failed": counts.failed}
    return counts


class Sweep:
    """The members of a sweep with their scores.

    Args:
        dir: Run directory of the sweep.

    Raises:
        StoreError: There is no sweep.
    """

    def __init__(self, dir: str | Path) -> None:
        self.config: Config = Run(dir).config
        self.dir: Path = Path(dir)

    @classmethod
    def _of(cls, config: Config) -> Sweep:
        sweep = cls.__new__(cls)
        sweep.config, sweep.dir = config, Path(config.run.dir)
        return sweep

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per member and method: its settings, accuracy, NLL in nats, ...

        A member that failed has one row with its ``error``.
        """
        from ..cache.schema import StoreError
        from ..heads.sweeps.table import read_sweep

        table = read_sweep(self.dir)
        if table is None:
            raise StoreError(f"{self.dir}: no sweep here; name the directory of one")
        return [dict(row) for row in table.rows]

    def frame(self) -> pd.DataFrame:
        """``rows`` as a pandas data frame. Needs pandas."""
        from .frames import frame

        return frame(self.rows())

    def summary(self) -> dict[str, Any]:
        """Curves over each key, settings ranked by validation loss, and what failed."""
        from ..heads.sweeps.summary import summarise
        from ..heads.sweeps.table import read_sweep

        table = read_sweep(self.dir)
        assert table is not None
        return summarise(table, self.config.evaluate.confidence)

    def best(self, method: str) -> dict[str, Any]:
        """Settings of a method with the lowest validation loss, with its accuracy over seeds."""
        return self.summary()["best"][method][0]

    def plot(self) -> dict[str, Figure]:
        """A matplotlib figure per metric and swept key that is a number; none is shown."""
        from ..display.plots import study_figures

        return {
            f"{key}: {metric}": figure
            for key, study in self.summary()["studies"].items()
            for metric, figure in study_figures(study).items()
        }

    def __str__(self) -> str:
        from ..display.sweeps import sweep_tables

        return rendered(list(sweep_tables(self.summary())))

    __repr__ = __str__
