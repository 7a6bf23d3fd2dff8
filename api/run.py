"""Train methods on a pair table, and look at what they learnt."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.schema import StoreError
from ..common.errors import UserError
from ..configs.resolve import resolve
from ..configs.schema import BackboneConfig, Config
from ..run_dir import freshness
from ..run_dir.files import RECORD
from ..run_dir.record import RunRecord
from ..run_dir.report_json import read_report_json
from . import learning
from .progress import working_on
from .settings import Settings, make_config
from .store import Store, Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from .reward_model import RewardModel


def train(
    data: Table,
    methods: Sequence[str] | str = ("single_bt", "micro"),
    *,
    num_heads: int | None = None,
    seed: int = 0,
    dir: str | Path = "runs/default",
    settings: Settings | None = None,
    progress: bool = True,
) -> Run:
    """Fit methods on the training pairs of a table; what a run directory already has is kept.

    Args:
        data: Pair table of a store.
        methods: Names of methods, or all. What a method comes after is fitted, too.
        num_heads: K, reward heads of mixtures; by default ``train.num_heads``.
        seed: Seed of every initialisation and draw. Methods that have randomness are trained under
            ``train.seeds`` seeds, by default five, that follow from it.
        dir: Run directory; the same call again takes what is there.
        settings: More keys of the configuration, such as ``{"train.epochs": 5}``.
        progress: Show progress on a terminal or in a notebook.

    Raises:
        ConfigError: A method or setting is unknown or out of range.
        StoreError: The table lacks vectors that the views need.
        UserError: Training diverged, or the data cannot serve any chosen method.
    """
    config = table_config(
        data, settings, train={"num_heads": num_heads}, run={"seed": seed, "dir": str(dir)}
    )
    names = methods.replace(" ", "").split(",") if isinstance(methods, str) else list(methods)
    run = Run._of(replace(config, methods=names))
    run._ensure("train", "adapt", progress=progress)
    return run


def table_config(data: Table, settings: Settings | None, **sections: dict[str, Any]) -> Config:
    """The configuration of an experiment on a table, its backbone and views as it was embedded."""
    made = data.pairs.settings
    config = make_config(
        settings, data={"name": data.name}, store={"dir": str(data.store.dir)}, **sections
    )
    backbone = BackboneConfig(**made["backbone"])
    config = replace(config, backbone=backbone, views=replace(config.views, form=made["form"]))
    return resolve(config, data.store.identity)


class Run:
    """A run directory: fitted methods, their evaluation and their report.

    ``train`` makes one; ``Run(dir)`` opens one that ``train`` or the command line has made.

    Args:
        dir: The run directory.

    Raises:
        StoreError: There is no run, or its record is damaged.
    """

    def __init__(self, dir: str | Path) -> None:
        from ..configs.saved import read_config

        self.dir: Path = Path(dir)
        path = self.dir / RECORD
        try:
            content = json.loads(path.read_text("utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path}: no run here ({error}); name a run directory") from error
        self.config: Config = replace_dir(read_config(content), self.dir)

    @classmethod
    def _of(cls, config: Config) -> Run:
        run = cls.__new__(cls)
        run.dir, run.config = Path(config.run.dir), config
        return run

    @property
    def record(self) -> dict[str, Any]:
        """What was run, on what, with which versions and seeds, and how long each stage took."""
        return RunRecord(self.dir, self.config).content

    @property
    def methods(self) -> list[str]:
        """Names of the fitted methods."""
        stages = self.record["stages"]
        return [
            *stages.get("train", {}).get("trained", []),
            *stages.get("adapt", {}).get("adapted", []),
        ]

    @property
    def skipped(self) -> dict[str, str]:
        """Chosen methods that the data cannot serve, and why."""
        stages = self.record["stages"]
        return {
            **stages.get("train", {}).get("skipped", {}),
            **stages.get("adapt", {}).get("skipped", {}),
        }

    @property
    def table(self) -> Table:
        """The pair table that was learnt from."""
        return Store(self.config.store.dir).table(self.config.data.name)

    def evaluate(self, *, progress: bool = True) -> Report:
        """Score the test pairs, once for equal inputs; the table with intervals of every method.

        Raises:
            EvaluationError: The labelled rows leave nothing of an attribute to score.
        """
        self._ensure("train", "adapt", "evaluate", progress=progress)
        return Report(read_report_json(self.dir))

    def report(self) -> Path:
        """Write report.html, after evaluation if need be, and return its path."""
        from ..display.report import write_report
        from ..run_dir.record import recording_files

        self.evaluate(progress=False)
        with recording_files(self.dir):
            write_report(self.config, self._route)
        return self.dir / "report.html"

    def plot(self) -> dict[str, Figure]:
        """Training curves and accuracies as matplotlib figures, by name; none is shown."""
        from ..display.plots import accuracy_figure, training_figures
        from ..heads.checkpoint import load_models

        report = self.evaluate(progress=False)
        models, _scaler = load_models(self.dir)
        curves = {name: model.curves for name, model in models.items()}
        return {"accuracy": accuracy_figure(report.content), **training_figures(curves)}

    def model(self, method: str | None = None, *, device: str = "auto") -> RewardModel:
        """A fitted method with its backbone, which scores raw text.

        Args:
            method: Name of the method; by default the one that ``micro_rm.load`` would take.
            device: auto takes CUDA when present.

        Raises:
            ConfigError: The backbone is not at hand.
            UserError: The method gives no reward of a single response.
        """
        from .reward_model import RewardModel

        return RewardModel.load(self.dir, method, device=device)

    def _route(self, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        from ..serve.example_prompts import route_prompts

        return route_prompts(str(self.dir), prompts, device=self.config.embed.device)

    def _ensure(self, *names: str, progress: bool) -> None:
        """Run those of the stages that are not done."""
        record = RunRecord(self.dir, self.config)
        request = freshness.stored_table_fingerprint(self.config)
        for name in learning.stages_to_do(self.config, record, request):
            if name in names:
                with working_on(f"{name}: {', '.join(self.config.methods)}", progress):
                    learning.run_stage(name, self.config, record)

    def __repr__(self) -> str:
        seconds = {name: stage["seconds"] for name, stage in self.record["stages"].items()}
        done = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        config = self.config
        lines = [
            f"Run({str(self.dir)!r}): {', '.join(self.methods) or 'nothing fitted'}",
            f"  data    {config.data.name} in {config.store.dir}, seed {config.run.seed}",
            f"  stages  {done or 'none done'}",
        ]
        return "\n".join(lines + [f"  without {name}: {why}" for name, why in self.skipped.items()])


def replace_dir(config: Config, dir: Path) -> Config:
    """The configuration of a run that may have been moved."""
    return replace(config, run=replace(config.run, dir=str(dir)))


class Report:
    """The evaluation of a run. ``print`` shows the table; ``content`` holds every number.

    Macro accuracy is the mean over attributes of the share of test pairs that a method orders as
    the label says; its interval accounts for other training seeds, labelled rows,
    and people or prompts; see docs/statistics.md.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per method: accuracy with its interval, NLL in nats, what it was given."""
        return [
            {
                "method": name,
                "accuracy": entry["macro"]["accuracy"],
                "low": entry["macro"]["low"],
                "high": entry["macro"]["high"],
                "nll": entry["nll"],
                "given": entry["given"],
            }
            | {f"accuracy/{a}": cell["accuracy"] for a, cell in entry["attributes"].items()}
            for name, entry in self.content["methods"].items()
        ]

    def frame(self) -> pd.DataFrame:
        """``rows`` as a pandas data frame. Needs pandas."""
        from .frames import frame

        return frame(self.rows())

    def __getitem__(self, method: str) -> dict[str, Any]:
        """Every number of one method."""
        if method not in self.content["methods"]:
            raise UserError(
                f"no method {method!r} in this report; it has {', '.join(self.content['methods'])}"
            )
        return self.content["methods"][method]

    def __str__(self) -> str:
        from ..display.tables import (
            attribute_table,
            comparison_table,
            headline_methods,
            method_table,
        )

        content = self.content
        parts = [method_table(content), "", attribute_table(content, headline_methods(content))]
        if content["comparisons"]:
            parts += ["", comparison_table(content)]
        return rendered([*parts, "", *content["verdict"], *content["warnings"]])

    __repr__ = __str__


def rendered(parts: Sequence[object]) -> str:
    """What the command line would print of some tables and sentences, as plain text."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=100,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))
