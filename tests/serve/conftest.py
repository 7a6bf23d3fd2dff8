"""A tiny run over text, trained once: a random Llama, two contexts, every kind of method."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

import micro_rm
from micro_rm.pipeline import main
from micro_rm.serve.model import Model
from micro_rm.tests.embed.conftest import _make_model, _make_tokenizer

METHODS = "single_bt,static_mixture,micro_stage1,micro,micro_kernel,micro_hyre"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the run, beside its ``store``, ``backbone`` and ``rows.jsonl``.

    All processes of pytest-xdist share it: a test that modifies it works on a copy.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    base, done = shared / "served", shared / "served.done"
    with open(shared / "served.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(base, ignore_errors=True)  # left by a process that failed
            base.mkdir()
            _train(base)
            done.touch()
    return base / "run"


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Model:
    return micro_rm.load(tiny_run, device="cpu")


def _train(base: Path) -> None:
    tokenizer = _make_tokenizer("llama")
    tokenizer.save_pretrained(base / "backbone")
    _make_model("llama", len(tokenizer)).save_pretrained(base / "backbone")
    rows = [
        {
            "prompt": f"Question {index // 2}: how far is the moon?",
            "chosen": f"About {index} km." + " It is far." * (index % 5),
            "rejected": f"Ask the sun, number {index}.",
            "attribute": ("brief", "long")[index % 2],
            "context": ("be brief", "use many words")[index % 2],
            "split": "test" if index % 8 < 2 else "train",
        }
        for index in range(48)
    ]
    (base / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["run", *flags(base, base), "--json"]) == 0


def flags(base: Path, copy: Path) -> list[str]:
    """Settings of the tiny run made in ``base``, for its copy of store and run elsewhere."""
    return [
        f"--data.train={base / 'rows.jsonl'}",
        "--data.name=rows",
        f"--backbone.name={base / 'backbone'}",
        *("--backbone.dtype=float32", "--backbone.max_length=256", "--embed.device=cpu"),
        *(f"--{name}.dir={copy / name}" for name in ("store", "run")),
        f"--methods={METHODS}",
        *("--train.num_heads=3", "--train.epochs=2", "--train.seeds=2"),
        *("--adapt.budget=4", "--adapt.draws=2", "--adapt.epochs=3"),
    ]
