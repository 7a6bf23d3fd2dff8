"""Runs over the tiny store: their configuration, another table of pairs, and what they predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pyarrow import parquet

from micro_rm.cache.pairs import PairTable, write_pairs
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.schema import Config, DataConfig, EvaluateConfig, RunConfig, StoreConfig
from micro_rm.configs.train import TrainConfig

VALIDATED, ORACLE = "micro_stage1_best_head_validated", "micro_stage1_best_head_oracle"


def run_config(tiny: Any, run: Path) -> Config:
    """Both stages on the tiny store, in a run directory."""
    return Config(
        methods="single_bt,micro",
        data=DataConfig(name="tiny"),
        store=StoreConfig(str(tiny.store)),
        train=TrainConfig(
            num_heads=4,
            learning_rate=0.02,
            batch_size=16,
            epochs=4,
            seeds=2,
            validation_fraction=0.2,
            router_units=16,
        ),
        adapt=AdaptConfig(budget=16, pool=32, draws=2, epochs=40, batch_size=8, learning_rate=0.02),
        evaluate=EvaluateConfig(),
        run=RunConfig(str(run), seed=5),
    )


def text(tiny: Any, **columns: Any) -> dict[str, Any]:
    """Other labels, as a column or as one value for all rows."""
    count = len(tiny.table)
    return {"text": {k: [v] * count if isinstance(v, str) else v for k, v in columns.items()}}


def store_beside(tiny: Any, directory: Path, **changes: Any) -> StoreConfig:
    """The vectors of the tiny store under a pair table that differs in some fields."""
    table: PairTable = replace(tiny.table, **changes)
    (directory / "pairs").mkdir(parents=True)
    (directory / "manifest.json").write_bytes((tiny.store / "manifest.json").read_bytes())
    (directory / "shards").symlink_to(tiny.store / "shards")
    write_pairs(directory, table)
    return StoreConfig(str(directory))


def predictions(run: Path, method: str) -> list[dict[str, Any]]:
    """Rows of a method under the first seed."""
    chosen = [("method", "=", method), ("seed", "=", 0)]
    return parquet.read_table(run / "predictions.parquet", filters=chosen).to_pylist()
