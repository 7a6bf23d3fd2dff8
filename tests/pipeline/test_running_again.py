"""A stage counts as done only for the pair table, settings and files that it used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from micro_rm.tests.pipeline.conftest import Work, rows


def test_a_second_run_does_nothing_and_says_the_same(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    def written() -> dict[Any, int]:
        return {path: path.stat().st_mtime_ns for path in (work.place / "store").rglob("*.h5")}

    work.do("run")
    first, before = work.result("report.json"), written()
    capsys.readouterr()
    assert work.do("run") == 0
    assert capsys.readouterr().out.count("done before for the same inputs") == 4
    assert work.result("report.json")["methods"] == first["methods"]
    assert written() == before


@pytest.mark.long
def test_another_k_trains_again_but_embeds_nothing(
    work: Work, capsys: pytest.CaptureFixture[str]
) -> None:
    work.do("run")
    shards = sorted((work.place / "store" / "shards").iterdir())
    capsys.readouterr()
    assert work.do("run", "--train.num_heads=5") == 0
    assert "embed    done before for the same inputs" in capsys.readouterr().out
    assert sorted((work.place / "store" / "shards").iterdir()) == shards
    assert len(work.result("report.json")["heads"]["micro"]["usage"]) == 5


@pytest.mark.long
def test_the_same_seed_gives_the_same_bytes_in_another_directory(work: Work) -> None:
    work.do("run")
    work.do("run", f"--run.dir={work.place / 'again'}")
    work.do("run", f"--run.dir={work.place / 'other'}", "--run.seed=7")
    assert work.model() == work.model("again")
    assert work.model() != work.model("other")


@pytest.mark.long
def test_added_rows_embed_only_what_is_new(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    work.do("embed")
    work.write(train=rows("train", 41))
    capsys.readouterr()
    assert work.do("embed", "--json") == 0
    # One new prompt with two answers: in the plain view 3 sequences, in the ctx view of two
    # contexts (both rows are in the pool) 2 prompts and 4 responses.
    assert json.loads(capsys.readouterr().out)["new_sequences"] == 9
    assert work.do("verify") == 0


@pytest.mark.long
def test_text_that_changed_behind_the_store_is_embedded_and_trained_on(work: Work) -> None:
    """Training reads the pair table; the next run notices that the text has changed."""
    work.do("run")
    work.write(train=rows("train", 44))
    assert work.do("train") == 0
    assert work.do("run") == 0
    assert work.result("record.json")["stages"]["embed"]["pairs"] == 88 + 40
    work.do("run", f"--run.dir={work.place / 'fresh'}")
    assert work.model("fresh") == work.model()


@pytest.mark.long
def test_a_stage_that_died_half_way_is_done_again(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    from micro_rm.heads import stages

    work.do("run")
    before, trained = work.model(), stages.train

    def die(config: Any) -> Any:
        trained(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "train", die)
    assert work.do("run", "--train.num_heads=5") == 130
    monkeypatch.undo()
    assert work.do("run") == 0
    assert work.model() == before


@pytest.mark.long
def test_a_deleted_result_is_made_again(work: Work) -> None:
    work.do("run")
    for name in ("model.safetensors", "report.json"):
        (work.place / "run" / name).unlink()
        assert work.do("run") == 0
        assert (work.place / "run" / name).is_file()
