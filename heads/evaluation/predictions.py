"""``predictions.parquet``: a row per method, seed, draw and test row, to rebuild any table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ...cache.pairs import PairTable
from ...common.files import commit_file
from .protocol import ScoredMethod, TestSet

LABELS = ("pair_id", "prompt_id", "attribute", "context", "user")


def write_predictions(
    path: Path, table: PairTable, test: TestSet, scored: Mapping[str, Sequence[ScoredMethod]]
) -> None:
    """Write labels, head margins, router weights and decisions of all methods to a Parquet file.

    The column ``scored`` is false where a draw has adapted to the row, or to one that shares its
    prompt or a response, which no accuracy counts. Margins and weights are those of the first seed,
    whose models are kept for use; the other seeds have none.

    Args:
        path: The file; it appears only when it is complete.
        table: Pair table with the labels of the rows.
        test: The test set.
        scored: Scored methods by name, each under every seed.
    """
    labels = {name: np.asarray(table.text[name])[test.table_rows].tolist() for name in LABELS}
    temporary = path.with_name(path.name + ".tmp")
    schema = pa.schema(
        [("method", pa.string()), ("rule", pa.string()), ("seed", pa.int32()), ("draw", pa.int32())]
        + [(name, pa.string()) for name in LABELS]
        + [("margins", pa.list_(pa.float32())), ("weights", pa.list_(pa.float32()))]
        + [("probability", pa.float64()), ("correct", pa.float64()), ("tie", pa.bool_())]
        + [("scored", pa.bool_())]
    )
    count = test.table_rows.size
    with parquet.ParquetWriter(temporary, schema) as writer:
        for method, seed, draw, result in _parts(scored):
            margins, weights = _heads(result, draw) if seed == 0 else ([None] * count,) * 2
            columns = {
                "method": [method] * count,
                "rule": [result.rule] * count,
                "seed": [seed] * count,
                "draw": [draw] * count,
                **labels,
                "margins": margins,
                "weights": weights,
                "probability": np.exp(result.log_prob_SxN[draw]),
                "correct": result.correct_SxN[draw],
                "tie": result.tie_SxN[draw],
                "scored": result.counts_SxN[draw],
            }
            writer.write_table(pa.table(columns, schema=schema))
    commit_file(temporary, path)


def _parts(
    scored: Mapping[str, Sequence[ScoredMethod]],
) -> Iterator[tuple[str, int, int, ScoredMethod]]:
    """Method, seed, draw and what was scored."""
    for method, seeds in scored.items():
        for seed, result in enumerate(seeds):
            for draw in range(result.correct_SxN.shape[0]):
                yield method, seed, draw, result


def _heads(result: ScoredMethod, draw: int) -> tuple[list[Any], list[Any]]:
    """Margins and router weights of every row in one draw; nulls for a method without heads."""
    if result.heads is None:
        nothing = [None] * result.correct_SxN.shape[1]
        return nothing, nothing
    weights_NxK = np.exp(result.heads.log_weights_SxNxK[draw])
    return (
        list(result.heads.delta_NxK.astype(np.float32)),
        list(weights_NxK.astype(np.float32)),
    )
