"""predictions.parquet: everything about every scored row, so that any table can be rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation import protocol
from micro_rm.heads.evaluation.predictions import write_predictions
from micro_rm.heads.evaluation.report import build_report
from micro_rm.heads.partition import partition


def test_every_method_draw_and_row_is_written_with_its_labels(
    tiny: Any, make_scored: Any, make_reward: Any, tmp_path: Path
) -> None:
    rows = partition(tiny.table, 0.0).test
    test = protocol.make_test_set(tiny.table, rows)
    rng = np.random.default_rng(0)
    delta_NxK = rng.normal(size=(40, 2))
    delta_NxK[5] = 0.0
    weights_SxNxK = rng.dirichlet([1, 1], size=(3, 40))
    counts_SxN = rng.random((3, 40)) < 0.8
    scored = {
        "length_only": make_reward(delta_NxK[None, :, 0]),
        "micro": make_scored(delta_NxK, np.log(weights_SxNxK), rule="R2", counts=counts_SxN),
    }
    path = tmp_path / "predictions.parquet"
    write_predictions(path, tiny.table, test, {name: [one] for name, one in scored.items()})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]

    table = parquet.read_table(path).to_pylist()
    assert len(table) == 40 + 3 * 40
    assert [row["draw"] for row in table] == [0] * 40 + [0] * 40 + [1] * 40 + [2] * 40
    micro = table[40:]
    for number, row in enumerate(micro):
        draw, row_index = divmod(number, 40)
        source = int(rows[row_index])
        assert (row["method"], row["rule"]) == ("micro", "R2")
        for label in ("pair_id", "prompt_id", "attribute", "context", "user"):
            assert row[label] == tiny.table.text[label][source]
        np.testing.assert_allclose(row["margins"], delta_NxK[row_index], rtol=1e-6)
        np.testing.assert_allclose(row["weights"], weights_SxNxK[draw, row_index], rtol=1e-6)
        assert row["probability"] == np.exp(scored["micro"].log_prob_SxN[draw, row_index])
        assert row["correct"] == scored["micro"].correct_SxN[draw, row_index]
        assert row["tie"] == (row_index == 5)
        assert row["scored"] == counts_SxN[draw, row_index]
    assert micro[5]["correct"] == 0.5
    for row in table[:40]:  # a method without heads has no margins and weights to show
        assert (row["margins"], row["weights"], row["scored"]) == (None, None, True)


def test_the_macro_accuracy_can_be_rebuilt_from_the_file(
    tiny: Any, make_scored: Any, tmp_path: Path
) -> None:
    test = protocol.make_test_set(tiny.table, partition(tiny.table, 0.0).test)
    rng = np.random.default_rng(1)
    counts_SxN = rng.random((1, 40)) < 0.6
    scored = make_scored(rng.normal(size=(40, 1)), counts=counts_SxN)
    write_predictions(tmp_path / "p.parquet", tiny.table, test, {"a": [scored]})
    table = parquet.read_table(tmp_path / "p.parquet", filters=[("scored", "=", True)])
    result = table.group_by("attribute").aggregate([("correct", "mean")]).to_pylist()
    report = build_report("tiny", test, {"a": [scored]}, {"a": "prompt"}, EvaluateConfig())
    cells = report["methods"]["a"]["attributes"]
    rebuilt = {row["attribute"]: row["correct_mean"] for row in result}
    assert rebuilt == pytest.approx({name: cell["accuracy"] for name, cell in cells.items()})
    assert sum(cell["n"] for cell in cells.values()) == table.num_rows == counts_SxN.sum()


def test_further_seeds_are_written_without_their_heads(
    tiny: Any, make_scored: Any, tmp_path: Path
) -> None:
    test = protocol.make_test_set(tiny.table, partition(tiny.table, 0.0).test)
    rng = np.random.default_rng(2)
    seeds = [make_scored(rng.normal(size=(40, 2))) for _ in range(3)]
    write_predictions(tmp_path / "p.parquet", tiny.table, test, {"a": seeds})
    table = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert [row["seed"] for row in table] == [0] * 40 + [1] * 40 + [2] * 40
    assert [row["correct"] for row in table] == np.concatenate(
        [one.correct_SxN[0] for one in seeds]
    ).tolist()
    assert all((row["margins"] is None) == (row["seed"] > 0) for row in table)
