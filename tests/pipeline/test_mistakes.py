"""Errors of the command line name the setting or place, what was expected, and the remedy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from micro_rm.tests.pipeline.conftest import Work, rows

Fails = Callable[..., str]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "--adapt.taus=1"], ["did you mean adapt.tau?"]),
        (["run", "--train.num_heads=0"], ["train.num_heads: expected 1 or more, found 0"]),
        (["run", "--run.seed=-1"], ["run.seed: expected 0 or more, found -1"]),
        (["run", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["run"], ["data.train"]),
    ],
)
def test_mistakes_in_the_arguments_alone(fails: Fails, argv: list[str], words: list[str]) -> None:
    message = fails(argv)
    assert all(word in message for word in words)


def test_an_unknown_key_in_yaml(fails: Fails, tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text("train:\n  num_heds: 3\n", "utf-8")
    assert "did you mean train.num_heads?" in fails(["run", "--config", str(config)])


@pytest.mark.parametrize(
    ("command", "flag", "words"),
    [
        ("run", "--data.train=nowhere.jsonl", ["nowhere.jsonl: no such file", "--data.train"]),
        ("run", "--methods=micro,macro", ["micro_stage1", "'macro'"]),
        ("check", "--data.source=json", ["expected one of capybara, ", "jsonl, orca_pairs"]),
        ("embed", "--backbone.name=nobody/nothing", ["nobody/nothing", "local directory"]),
        ("train", "--run.seed=0", ["run micro-rm embed"]),
    ],
)
def test_nothing_is_embedded_before_a_mistake_is_found(
    fails: Fails,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    flag: str,
    words: list[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = fails([command, *work.flags, flag])
    assert all(word in message for word in words)
    assert not (work.place / "store").exists()


def test_an_empty_data_set(fails: Fails, work: Work) -> None:
    empty = work.place / "empty.jsonl.gz"
    empty.write_bytes(gzip.compress(b""))
    message = fails(["run", *work.flags, f"--data.train={empty}", f"--data.test={empty}"])
    assert "no usable pair" in message and "README" in message


def test_an_attribute_without_test_rows(fails: Fails, work: Work) -> None:
    work.write(test=[row for row in rows("test", 20) if row["attribute"] == "short"])
    message = fails(["run", *work.flags])
    assert "no test rows for attribute long (40 training rows)" in message
    assert "data.attributes" in message


def test_a_store_of_another_backbone(fails: Fails, work: Work) -> None:
    work.do("embed")
    message = fails(["run", *work.flags, "--backbone.max_length=64"])
    assert "max_length: the store has 2048, this run has 64" in message
    assert "store.dir" in message


@pytest.mark.long
def test_what_was_not_embedded_or_trained_for_a_stage_is_named(fails: Fails, work: Work) -> None:
    work.do("embed")
    assert "run micro-rm train" in fails(["adapt", *work.flags])
    message = fails(["train", *work.flags, "--backbone.overlong=error"])
    assert "backbone.overlong: the store has 'drop', this run has 'error'" in message
    work.do("train", "--methods=single_bt")
    message = fails(["adapt", *work.flags, "--methods=micro"])
    assert "micro needs micro_stage1, which is not trained" in message


@pytest.mark.long
def test_views_that_were_never_embedded(fails: Fails, work: Work) -> None:
    work.do("run", "--views.adapt_head=plain")
    message = fails(["evaluate", *work.flags, "--views.adapt_head=ctx"])
    assert "run micro-rm embed with these views" in message


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--adapt.budget=60"], ["expected 60 train rows for attribute", "lower adapt.budget"]),
        (
            ["--train.learning_rate=1e30", "--train.clip=1e30", "--methods=micro_stage1"],
            ["micro_stage1: training 3 heads diverged", "lower train.learning_rate"],
        ),
    ],
)
def test_what_only_learning_finds(
    fails: Fails, work: Work, flags: list[str], words: list[str]
) -> None:
    message = fails(["run", *work.flags, *flags])
    assert all(word in message for word in words)
