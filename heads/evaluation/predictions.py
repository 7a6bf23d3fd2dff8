"""``predictions.parquet``: one row per method, draw and test row; any table can be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...cache.pairs import PairTable
from ...cache.schema import commit_file
from .protocol import Scored, TestSet

LABELS = ("pair_id", "prompt_id", "attribute", "context", "user")


def write_predictions(
    path: Path, table: PairTable, test: TestSet, scored: Mapping[str, Scored]
) -> None:
    """Write head margins, weights, probability, correctness and tie of every scored row."""
    labels = {name: np.asarray(table.text[name])[test.table_rows].tolist() for name in LABELS}
    temporary = path.with_name(path.name + ".tmp")
    schema = pa.schema(
        [("method", pa.string()), ("rule", pa.string()), ("draw", pa.int32())]
        + [(name, pa.string()) for name in LABELS]
        + [("margins", pa.list_(pa.float32())), ("weights", pa.list_(pa.float32()))]
        + [("probability", pa.float64()), ("correct", pa.float64()), ("tie", pa.bool_())]
    )
    with parquet.ParquetWriter(temporary, schema) as writer:
        for method, result in scored.items():
            for draw, log_weights_NxK in enumerate(result.prediction.log_weights_SxNxK):
                count = test.table_rows.size
                columns = {
                    "method": [method] * count,
                    "rule": [result.rule] * count,
                    "draw": [draw] * count,
                    **labels,
                    "margins": list(result.prediction.delta_NxK.astype(np.float32)),
                    "weights": list(np.exp(log_weights_NxK).astype(np.float32)),
                    "probability": np.exp(result.log_prob_SxN[draw]),
                    "correct": result.correct_SxN[draw],
                    "tie": result.tie_SxN[draw],
                }
                writer.write_table(pa.table(columns, schema=schema))
    commit_file(temporary, path)
