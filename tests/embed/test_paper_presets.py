"""Every preset of ``configs/paper`` from its fixture to the compared table, with a tiny backbone.

Only sizes, weights and the place of the data differ from what runs on a GPU box.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from micro_rm.embed.sources.sets import PUBLISHED, helpsteer2
from micro_rm.pipeline import main

ROOT = Path(__file__).resolve().parent.parent.parent
PRESETS = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
FIXTURES = Path(__file__).parent / "sources" / "fixtures"
SMALL = [
    "--backbone.revision=main",
    "--backbone.dtype=float32",
    "--backbone.max_length=512",
    "--train.epochs=1",
    "--train.seeds=1",
    "--train.router_units=8",
    "--adapt.budget=2",
    "--adapt.pool=4",
    "--adapt.draws=2",
    "--adapt.batch_size=8",
    "--baselines.hyre.rows=2",
    "--baselines.armo.hidden=4",
    "--baselines.armo.steps=2",
    "--study.budgets=[0,2]",
    "--study.seeds=1",
    '--study.methods=["micro"]',
]
# What a preset adds to the paper's own numbers: swept values, cut down.
SMALL_SWEEPS = {
    "figure5": {"train.num_heads": [2, 3], "run.seed": [0, 1]},
    "figure6": {"train.num_heads": [3], "adapt.epochs": [1, 2]},
}


def command_of(preset: Path) -> str:
    """The command that the preset's first lines name."""
    lines = preset.read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith("#   micro-rm")]
    assert f"--config configs/paper/{preset.name}" in line
    return line.split()[2]


def content_of(preset: Path) -> dict[str, Any]:
    return yaml.safe_load(preset.read_text("utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store and one folder of runs for all presets, as the presets have it."""
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def run_preset(
    place: Path, backbone_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], tuple[int, Path]]:
    """Run the command of a preset on the fixtures; its exit code and its run directory."""
    monkeypatch.setattr(helpsteer2, "OFFICIAL_TEST", 1)

    def run(preset: Path) -> tuple[int, Path]:
        content = content_of(preset)
        for data in (content["data"], *content["data"].get("parts", [])):
            if data["source"] in PUBLISHED:
                data["dir"] = str(FIXTURES / data["source"])
        if preset.stem in SMALL_SWEEPS:
            content["sweep"]["grid"] = SMALL_SWEEPS[preset.stem]
        local = place / preset.name
        local.write_text(yaml.safe_dump(content), "utf-8")
        directory = place / content.get("run", {"dir": "none"})["dir"]
        flags = [
            *SMALL,
            f"--backbone.name={backbone_path('llama')}",
            f"--store.dir={place / 'store'}",
            f"--run.dir={directory}",
        ]
        return main([command_of(preset), "--config", str(local), *flags]), directory

    return run


@pytest.mark.long
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_preset_runs_from_its_fixture_to_the_compared_table(
    preset: Path, run_preset: Callable[[Path], tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, directory = run_preset(preset)
    shown, errors = capsys.readouterr()
    content, command = content_of(preset), command_of(preset)
    tables = content.get("report", {"tables": []})["tables"]
    assert code == 0 or (command == "check" and not errors), errors  # check: rows refused
    for table in tables:
        assert f"{table}: " in shown and "published" in shown
    if command == "check":
        return
    if command == "sweep":
        assert (directory / "sweep.html").is_file()
        return
    report = json.loads((directory / "report.json").read_text("utf-8"))
    assert [table["table"] for table in report["published"]] == tables
    wanted = content["methods"].split(",")
    assert not set(wanted) - set(report["methods"]) - set(report["skipped"])
    assert not report["skipped"], report["skipped"]
    for table in report["published"]:
        compared = [row for row in table["rows"] if row["ours"] in report["methods"]]
        assert len(compared) == sum(row["ours"] is not None for row in table["rows"])
    sources = report["account"]["sources"]
    assert all(counts["rows"] > 0 for counts in sources.values())


def test_presets_state_the_settings_of_the_paper() -> None:
    """Appendix D.1, sections 5.1 and 5.3; written out, not left to the defaults."""
    taus = {"rpr": 1e-4}
    heads = {"helpsteer2": 5, "rpr": 10, "helpsteer2_to_rpr": 5}
    for preset in PRESETS:
        if command_of(preset) == "check":
            continue
        stated = content_of(preset)
        name, train, adapt = stated["data"]["name"], stated["train"], stated["adapt"]
        assert stated["backbone"]["name"] == "Ray2333/GRM-Llama3.2-3B-rewardmodel-ft"
        assert len(stated["backbone"]["revision"]) == 40
        assert (train["entropy_weight"], train["learning_rate"]) == (0.5, 2e-3)
        assert (train["batch_size"], train["warmup"], train["clip"]) == (128, 0.05, 1.0)
        assert (train["router"], train["router_units"]) == ("mlp", 128)
        assert (adapt["budget"], adapt["epochs"], adapt["batch_size"]) == (50, 10, 32)
        assert (adapt["draws"], adapt["targets"], adapt["source"]) == (5, "example", "train")
        assert adapt["tau"] == taus.get(name, 1e-3)
        assert train["num_heads"] == heads.get(name, 10)
        views = stated["views"]
        assert (views["train_head"], views["train_router"]) == ("plain", "plain")
        assert (views["adapt_head"], views["adapt_router"]) == ("ctx", "ctx")
        assert stated["store"]["dir"] == "cache/store/grm-llama3.2-3b"


@pytest.mark.long
def test_what_is_retrained_for_a_second_table_of_the_same_run_is_nothing(
    run_preset: Callable[[Path], tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    by_name: dict[str, Any] = {preset.stem: preset for preset in PRESETS}
    run_preset(by_name["table2"])
    capsys.readouterr()
    run_preset(by_name["table8"])
    shown = capsys.readouterr().out
    for stage in ("embed", "train", "adapt", "evaluate"):
        assert f"{stage:<8} done before for the same inputs" in shown
