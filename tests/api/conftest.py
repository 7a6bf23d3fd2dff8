"""A store and a run of a tiny Llama, made through the Python interface alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import micro_rm as mrm
from micro_rm.tests.pipeline.conftest import CONTEXTS, backbone_dir, rows, write_jsonl

__all__ = ["backbone_dir"]

TINY = {
    "train.epochs": 8,
    "train.seeds": 2,
    "train.batch_size": 16,
    "adapt.draws": 2,
    "adapt.budget": 10,
    "embed.device": "cpu",
}
METHODS = ["single_bt", "static_mixture", "micro_stage1", "micro"]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl, test.jsonl and contexts.json."""
    folder = tmp_path_factory.mktemp("files")
    write_jsonl(folder / "train.jsonl", rows("train", 40))
    write_jsonl(folder / "test.jsonl", rows("test", 20))
    (folder / "contexts.json").write_text(json.dumps(CONTEXTS), "utf-8")
    return folder


def embed_files(files: Path, backbone_dir: Path, folder: Path) -> mrm.Store:
    return mrm.embed(
        files / "train.jsonl",
        backbone=str(backbone_dir),
        store=folder,
        name="preferences",
        settings={
            "data.test": str(files / "test.jsonl"),
            "data.contexts": str(files / "contexts.json"),
            "backbone.dtype": "float32",
            "embed.device": "cpu",
        },
    )


@pytest.fixture(scope="session")
def store(files: Path, backbone_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> mrm.Store:
    return embed_files(files, backbone_dir, tmp_path_factory.mktemp("api") / "store")


@pytest.fixture(scope="session")
def table(store: mrm.Store) -> mrm.Table:
    return store.table("preferences")


@pytest.fixture(scope="session")
def run(table: mrm.Table, tmp_path_factory: pytest.TempPathFactory) -> mrm.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return mrm.train(table, METHODS, num_heads=3, dir=folder, settings=TINY)
