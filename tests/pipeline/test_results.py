"""What the whole pipeline makes of data: files, numbers, and lines on the terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from micro_rm.pipeline import main
from micro_rm.tests.pipeline.conftest import CONTEXTS, TASTES, Work, rows, write_jsonl

FILES = {"record.json", "model.safetensors", "model.json", "metrics.jsonl", "predictions.parquet"}
FILES |= {"report.json", "report.html"}


def predictions(work: Work) -> list[dict[str, Any]]:
    return parquet.read_table(work.place / "run" / "predictions.parquet").to_pylist()


def test_run_makes_every_promised_file_and_its_numbers_follow_from_the_rows(work: Work) -> None:
    assert work.do("run", "--views.adapt_head=plain") == 0
    assert all((work.place / "run" / name).stat().st_size > 0 for name in FILES)
    methods = work.result("report.json")["methods"]
    best = [
        f"{owner}_best_head_{kind}"
        for owner in ("static_mixture", "micro_stage1")
        for kind in ("validated", "oracle")
    ]
    assert list(methods) == ["single_bt", "static_mixture", "micro_stage1", "micro", *best]
    # Every pair has its mirror image: a reward that does not read the context has accuracy 0.5.
    assert methods["single_bt"]["macro"]["accuracy"] == pytest.approx(0.5)
    for name, method in methods.items():
        counts = {taste: cell["n"] for taste, cell in method["attributes"].items()}
        if name == "micro":  # a test row with a response that was labelled is not scored
            assert list(counts) == list(TASTES) and all(15 < n <= 20 for n in counts.values())
        else:
            assert counts == dict.fromkeys(TASTES, 20)
    # Methods without draws, one with two, single heads; each under two seeds.
    table = predictions(work)
    assert len(table) == 2 * 40 * (3 + 2 + 4)
    assert all(row["scored"] for row in table if row["method"] != "micro")
    table = [row for row in table if row["seed"] == 0]
    assert {row["method"] for row in table if row["margins"] is None} == set(best)
    for row in (row for row in table if row["margins"] is not None):
        assert math.isclose(sum(row["weights"]), 1, rel_tol=1e-5)
        pairs = zip(row["weights"], row["margins"], strict=True)
        mixture = sum(weight / (1 + math.exp(-margin)) for weight, margin in pairs)
        assert math.isclose(mixture, row["probability"], rel_tol=1e-4)
    mixture = [row for row in table if row["method"] == "static_mixture"]
    rebuilt = sum(row["correct"] for row in mixture) / len(mixture)
    assert rebuilt == pytest.approx(methods["static_mixture"]["seeds"]["macro"][0])


@pytest.mark.long
def test_stages_can_be_run_one_by_one(work: Work) -> None:
    for command in ("check", "embed", "verify", "inspect", "train", "adapt", "evaluate", "report"):
        assert work.do(command) == 0, command
    assert (work.place / "run" / "report.html").is_file()


def test_dry_run_plans_and_writes_nothing(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("embed", "run"):
        assert work.do(command, "--dry_run", "--json") == 0
        plan = json.loads(capsys.readouterr().out)
        for key in ("new_sequences", "tokens", "bytes", "estimated_seconds"):
            assert plan[key] > 0, key
    assert not (work.place / "store").exists() and not (work.place / "run").exists()


@pytest.mark.long
def test_all_methods_run_or_say_what_they_lack(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    from micro_rm.heads.methods import METHODS

    small = [
        f"--baselines.{name}.{key}" for name in ("vpl", "pal") for key in ("hidden=8", "latent=4")
    ]
    small += ["--baselines.vpl.epochs=2", "--baselines.drm.components=3"]
    assert work.do("run", "--methods=all", *small) == 0
    report = work.result("report.json")
    assert set(report["skipped"]) == {"native_head", "armo_style"}
    assert "ratings" in report["skipped"]["armo_style"]
    done = [name for name in report["methods"] if "_best_head_" not in name]
    assert done == [name for name in METHODS if name not in report["skipped"]]
    printed = capsys.readouterr().out
    assert "train    native_head is left out: the backbone has no reward head" in printed
    page = (work.place / "run" / "report.html").read_text("utf-8")
    for name in METHODS:
        assert name in printed
        assert f"<strong>{name}</strong>" in page
    assert all(entry["summary"].endswith(".") for entry in report["methods"].values())


@pytest.mark.long
def test_adapting_to_test_rows_says_so_and_does_not_train_again(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work.do("run") == 0
    before = work.result("model.json")["methods"]["micro_stage1"]
    capsys.readouterr()
    assert work.do("run", "--adapt.source=test", "--adapt.budget=4", "--adapt.draws=1") == 0
    printed = capsys.readouterr().out
    assert "1 draws of 4 rows per attribute of the test rows, not scored then" in printed
    table = [row for row in predictions(work) if row["method"] == "micro" and row["seed"] == 0]
    # Eight rows were labelled; others share a prompt or a response with one.
    assert 8 < sum(not row["scored"] for row in table) < 20
    assert work.result("model.json")["methods"]["micro_stage1"] == before


@pytest.mark.long
def test_raters_without_attributes_can_be_adapted_to(work: Work) -> None:
    """One of the raters has fewer rows than the budget."""

    def by_user(split: str, prompts: int) -> list[dict[str, Any]]:
        plain = [(row, row.pop("attribute")) for row in rows(split, prompts)]
        return [row | {"user": user, "context": f"as {user} likes it"} for row, user in plain]

    train = by_user("train", 40)
    rare = [row | {"user": "rare"} for row in train[:4]]
    work.write(train=train + rare, test=by_user("test", 20))
    work.flags = [flag for flag in work.flags if not flag.startswith("--data.contexts")]
    assert work.do("run", "--adapt.group=user") == 0
    report = work.result("report.json")
    assert (report["budget"]["group"], report["budget"]["groups"]) == ("user", 3)
    assert set(report["methods"]["micro"]["attributes"]) == {"(none)"}


@pytest.mark.long
def test_rated_responses_keep_their_ratings_in_the_store(work: Work) -> None:
    from micro_rm.cache.pairs import read_pairs

    def rated(split: str, prompts: int) -> list[dict[str, Any]]:
        return [
            {"prompt": row["prompt"], "response": row["chosen"], "short": n % 2, "long": 1 - n % 2}
            for n, row in enumerate(rows(split, prompts))
        ]

    work.write(train=rated("train", 40), test=rated("test", 20))
    assert work.do("run", "--methods=length_only,native_head") == 0
    ratings = read_pairs(work.place / "store", "preferences").ratings
    shapes = {name: rating_Nx2.shape for name, rating_Nx2 in ratings.items()}
    assert shapes == {"short": (120, 2), "long": (120, 2)}
    report = work.result("report.json")
    # Responses are one word or many: a reward of the length is right about one taste only.
    cells = report["methods"]["length_only"]["attributes"]
    assert sorted(cell["accuracy"] for cell in cells.values()) in ([0.0, 1.0], [0.5, 0.5])
    assert report["verdict"] == []


@pytest.mark.long
def test_rows_without_an_attribute_or_a_context_do_not_stop_a_run(work: Work) -> None:
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows("train", 4)]
    held_out = [row | {"prompt": row["prompt"].replace("train", "test")} for row in bare]
    work.write(train=rows("train", 40) + bare, test=rows("test", 20) + held_out)
    assert work.do("run") == 0
    methods = work.result("report.json")["methods"]
    assert set(methods["micro"]["attributes"]) == {*TASTES, "(none)"}


@pytest.mark.long
def test_markup_and_brackets_in_names_are_shown_as_they_are(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "test"):
        path = work.place / f"{name}.jsonl"
        path.write_text(path.read_text("utf-8").replace('"short"', '"[/bold] x"'), "utf-8")
    contexts = {"[/bold] x": CONTEXTS["short"], "long": CONTEXTS["long"]}
    (work.place / "contexts.json").write_text(json.dumps(contexts), "utf-8")
    assert work.do("run") == 0
    assert "[/bold] x" in capsys.readouterr().out


def test_check_prints_every_refused_row_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "mixed.jsonl", [*rows("train", 30), {"prompt": "x", "chosen": 3}])
    assert main(["check", str(path), "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["refused"], summary["pairs"]) == (61, 1, 60)
    assert summary["refusals"][0]["row"] == 61
    assert main(["check", str(path)]) == 1
    assert "row 61" in capsys.readouterr().out


@pytest.mark.long
def test_every_preset_loads(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    presets = sorted((repository / "configs").glob("*.yaml"))
    assert len(presets) >= 6
    for preset in presets:
        with pytest.raises(SystemExit) as done:
            main(["run", "--config", str(preset), "--print_config"])
        assert done.value.code == 0, preset
        assert "num_heads" in capsys.readouterr().out
