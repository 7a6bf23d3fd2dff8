"""Scored rows read back from disk and aligned over runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.schema import StoreError
from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation import protocol
from micro_rm.heads.evaluation.across_runs import MethodsError, ScoredRun, compare_runs
from micro_rm.heads.evaluation.predictions import write_predictions
from micro_rm.heads.evaluation.rows import ORACLE
from micro_rm.heads.evaluation.saved import RowsError, SavedScores, read_scores, shared_rows
from micro_rm.heads.partition import partition

LABELS = ("pair_id", "prompt_id", "attribute", "context", "user")


def scores(pairs: list[str], attribute: str = "brief", **correct: Any) -> SavedScores:
    """One attribute, a prompt per pair; correctness (T, S, N) by method."""
    labels = {name: np.array([""] * len(pairs), object) for name in LABELS}
    labels |= {"pair_id": np.array(pairs, object), "prompt_id": np.array(pairs, object)}
    labels["attribute"] = np.array([attribute] * len(pairs), object)
    return SavedScores(labels, {name: np.array(value, float) for name, value in correct.items()})


def test_what_was_written_is_read_back_by_seed_draw_and_row(
    tiny: Any, make_scored: Any, make_reward: Any, tmp_path: Path
) -> None:
    test = protocol.make_test_set(tiny.table, partition(tiny.table, 0.0).test)
    rng = np.random.default_rng(0)
    weights_SxNxK = np.log(rng.dirichlet([1, 1], size=(3, 40)))
    seeds = [
        make_scored(rng.normal(size=(40, 2)), weights_SxNxK, counts=rng.random((3, 40)) < 0.8)
        for _ in range(2)
    ]
    reward = make_reward(rng.normal(size=(1, 40)))
    write_predictions(
        tmp_path / "predictions.parquet", tiny.table, test, {"micro": seeds, "exact": [reward]}
    )
    found = read_scores(tmp_path)
    expected = np.stack([one.scored_SxN for one in seeds])
    np.testing.assert_array_equal(found.correct["micro"], expected)
    assert found.correct["exact"].shape == (1, 1, 40)
    for name in ("attribute_N", "prompt_N", "wording_N", "user_N"):
        np.testing.assert_array_equal(getattr(found.test, name), getattr(test, name))
    assert found.test.attributes == test.attributes


def test_a_run_without_predictions_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"predictions\.parquet: cannot be read .* micro-rm eval"):
        read_scores(tmp_path)


def test_rows_are_aligned_by_pair_whatever_their_order() -> None:
    one = scores(["a", "b", "b", "c"], m=[[[0, 1, 2, 3]]])
    other = scores(["c", "b", "d", "b", "a"], m=[[[3, 1, 9, 2, 0]]])
    first, second = shared_rows([one, other])
    assert first.labels["pair_id"].tolist() == ["a", "b", "b", "c"]
    assert first.correct["m"].tolist() == second.correct["m"].tolist() == [[[0, 1, 2, 3]]]


def test_other_rows_or_other_labels_are_refused() -> None:
    with pytest.raises(RowsError, match=r"found none in common \(1, 2 rows\)"):
        shared_rows([scores(["a"], m=[[[1]]]), scores(["b", "c"], m=[[[1, 1]]])])
    moved = scores(["a"], m=[[[1]]])
    moved.labels["context"][0] = "Be brief."
    with pytest.raises(RowsError, match="same context, found 1 that differ"):
        shared_rows([scores(["a"], m=[[[1]]]), moved])


def run(name: str, **correct: Any) -> ScoredRun:
    pairs = [f"p{row}" for row in range(40)]
    return ScoredRun(name, scores(pairs, **correct), dict.fromkeys(correct, "prompt"))


def pairs_of(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["method"], item["against"]) for item in content["comparisons"]]


def test_methods_are_compared_with_themselves_in_the_first_run_else_with_its_comparator() -> None:
    right, wrong = np.ones((1, 1, 40)), np.zeros((1, 1, 40))
    first = run("a", single_bt=wrong, micro=wrong)
    later = run("b", micro=right, pal=right, **{"micro" + ORACLE: right})
    content = compare_runs([first, later], [], None, EvaluateConfig())
    assert pairs_of(content) == [("b: micro", "a: micro"), ("b: pal", "a: single_bt")]
    assert [item["difference"] for item in content["comparisons"]] == [1, 1]
    assert content["rows"] == 40 and content["left_out"] == {"a": 0, "b": 0}
    content = compare_runs([first, later], ["pal"], "micro", EvaluateConfig())
    assert pairs_of(content) == [("b: pal", "a: micro")]
    assert set(content["methods"]) == {"a: micro", "b: pal"}
    with pytest.raises(MethodsError, match=r"a has single_bt, micro; b has micro"):
        compare_runs([first, later], ["vpl"], None, EvaluateConfig())


def test_runs_with_other_numbers_of_seeds_share_the_first_ones() -> None:
    rng = np.random.default_rng(1)
    many, few = rng.integers(0, 2, (5, 1, 40)), rng.integers(0, 2, (3, 1, 40))
    content = compare_runs([run("a", m=many), run("b", m=few)], [], None, EvaluateConfig())
    (item,) = content["comparisons"]
    assert item["difference"] == pytest.approx(few.mean() - many[:3].mean())


def test_a_run_of_before_the_seeds_counts_as_one_seed(
    tiny: Any, make_reward: Any, tmp_path: Path
) -> None:
    from pyarrow import parquet

    test = protocol.make_test_set(tiny.table, partition(tiny.table, 0.0).test)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, tiny.table, test, {"exact": [make_reward(np.ones((1, 40)))]})
    old = parquet.read_table(path).drop_columns(["seed"])
    parquet.write_table(old, path)
    assert read_scores(tmp_path).correct["exact"].shape == (1, 1, 40)
    assert replace(test, table_rows=np.arange(40)).prompts == read_scores(tmp_path).test.prompts
