"""Scores of raw text: equal to the run's evaluation, alone and in batches."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import micro_rm
from micro_rm.cache.pairs import PairTable, read_pairs
from micro_rm.cache.schema import StoreError
from micro_rm.common.errors import UserError
from micro_rm.configs.score import ScoreConfig
from micro_rm.heads.scoring import ScoringError
from micro_rm.pipeline import main
from micro_rm.serve.model import Model, Score
from micro_rm.serve.names import head_names
from micro_rm.serve.score import SHOWN, ranking_table, score_question
from micro_rm.serve.texts import TextEncoder, TextError


@pytest.fixture(scope="module")
def table(tiny_run: Path) -> PairTable:
    return read_pairs(tiny_run.parent / "store", "rows")


def rows_of(run: Path, method: str) -> dict[str, np.ndarray]:
    """Predicted probability of every test pair, averaged over the draws of a method."""
    # The model that scores is that of the first training seed.
    chosen = [("method", "=", method), ("seed", "=", 0)]
    table = parquet.read_table(run / "predictions.parquet", filters=chosen)
    by_pair: dict[str, list[float]] = {}
    for row in table.to_pylist():
        by_pair.setdefault(row["pair_id"], []).append(row["probability"])
    return {pair: np.mean(values) for pair, values in by_pair.items()}


def texts(table: PairTable, pairs: list[str]) -> dict[str, list[Any]]:
    """Columns of the given pairs, with prompts as messages."""
    rows = [table.text["pair_id"].index(pair) for pair in pairs]
    turns = [json.loads(table.text["prompt"][row]) for row in rows]
    columns: dict[str, list[Any]] = {
        name: [table.text[name][row] for row in rows] for name in ("chosen", "rejected", "context")
    }
    prompts = [[{"role": role, "content": text} for role, text in one] for one in turns]
    return columns | {"prompt": prompts}


def scored(model: Model, columns: dict[str, list[Any]], side: str, method: str) -> list[Score]:
    return model.score(columns["prompt"], columns[side], columns["context"], method=method)


def probability(model: Model, columns: dict[str, list[Any]], method: str) -> np.ndarray:
    sides = (columns[name] for name in ("prompt", "chosen", "rejected", "context"))
    return model.probability(*sides, method=method)


@pytest.mark.parametrize("method", ["micro", "micro_stage1", "single_bt"])
def test_probabilities_of_raw_text_are_those_of_the_evaluation(
    method: str, model: Model, table: PairTable, tiny_run: Path
) -> None:
    expected = rows_of(tiny_run, method)
    found = probability(model, texts(table, list(expected)), method)
    np.testing.assert_allclose(found, list(expected.values()), atol=2e-5)


def test_rewards_differ_by_the_margin_and_add_up(model: Model, table: PairTable) -> None:
    columns = texts(table, table.text["pair_id"][:6])
    both = [scored(model, columns, side, "micro") for side in ("chosen", "rejected")]
    for one, other in zip(*both, strict=True):
        assert sum(one.weights) == pytest.approx(1, abs=1e-6)
        assert one.weights == pytest.approx(other.weights)  # the prompt decides, not the response
        assert one.reward == pytest.approx(np.dot(one.weights, one.head_rewards), abs=1e-9)
    single = [scored(model, columns, side, "single_bt") for side in ("chosen", "rejected")]
    expected = probability(model, columns, "single_bt")
    gap = np.array([a.reward - b.reward for a, b in zip(*single, strict=True)])
    np.testing.assert_allclose(1 / (1 + np.exp(-gap)), expected, atol=1e-5)


def test_a_score_is_the_same_alone_and_among_others(model: Model, table: PairTable) -> None:
    columns = texts(table, table.text["pair_id"][:8])
    together = model.score(columns["prompt"], columns["chosen"], columns["context"])
    small = TextEncoder(model.texts.encoder, capacity=1)
    fresh = Model(model.run, model.scorer, small, model.views, truncate=False)
    for index in (0, 5):
        one = ([columns[name][index]] for name in ("prompt", "chosen", "context"))
        (alone,) = fresh.score(*one)
        assert alone.reward == pytest.approx(together[index].reward, abs=1e-4)
    assert len(fresh.texts._cache) == 1


def test_a_repeated_text_is_embedded_once(model: Model) -> None:
    model.score(["How far is the moon?"], ["Far."])
    before = model.texts.misses
    model.score(["How far is the moon?"] * 3, ["Far."] * 3)
    assert model.texts.misses == before


def test_the_default_method_reads_the_context_where_there_is_one(model: Model) -> None:
    scores = model.score(["Hi?"] * 3, ["Yes."] * 3, ["be brief", None, ""])
    assert [score.method for score in scores] == ["micro", "micro_stage1", "micro_stage1"]


def test_best_of_ranks_by_the_reward(model: Model) -> None:
    answers = ["Far.", "About 384,400 km.", "Ask the sun, please."]
    ranking = model.best_of("How far is the moon?", answers, "be brief")
    rewards = [score.reward for _, score in ranking]
    assert rewards == sorted(rewards, reverse=True)
    assert sorted(number for number, _ in ranking) == [0, 1, 2]


def test_groups_choose_the_weights_of_methods_that_were_adapted_to_them(model: Model) -> None:
    assert model.scorer.groups("micro_hyre") == ["brief", "long"]
    one, other = model.score(
        ["Hi?"] * 2, ["Yes."] * 2, method="micro_hyre", groups=["brief", "long"]
    )
    assert one.head_rewards == other.head_rewards and one.weights != other.weights
    with pytest.raises(ScoringError, match="adapted to brief, long, found loud"):
        model.score(["Hi?"], ["Yes."], method="micro_hyre", groups=["loud"])


@pytest.mark.parametrize(
    ("prompt", "response", "words"),
    [
        ("x", 3, "response: expected text, found int"),
        ("x", "\ud800", "half a character"),
        ([{"role": "user"}], "y", "messages with role and content"),
        ([{"role": "robot", "content": "x"}], "y", "expected a role of system, user, assistant"),
        ([{"role": "system", "content": "x"}], "y", "at least one user message"),
        ("word " * 400, "y", "text 0: too long"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(
    prompt: Any, response: Any, words: str, model: Model
) -> None:
    with pytest.raises((UserError, TextError), match=words):
        model.score([prompt], [response])


def test_unequal_numbers_unknown_methods_and_no_run_are_errors(
    model: Model, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="as many prompts as responses"):
        model.score(["a"], ["b", "c"])
    with pytest.raises(ScoringError, match="expected one that gives rewards here"):
        model.score(["a"], ["b"], method="length_only")
    with pytest.raises(StoreError, match="name a run directory"):
        micro_rm.load(tmp_path)


def run_score(run: Path, *words: str) -> int:
    return main(["score", f"--run.dir={run}", "--embed.device=cpu", *words])


def test_the_command_ranks_responses(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--prompt", "How far is the moon?", "--context", "be brief"]
    answers = ["--response", "Far.", "--response", "About 384,400 km, I would say."]
    assert run_score(tiny_run, *asked, *answers) == 0
    shown = capsys.readouterr().out
    report = json.loads((tiny_run / "report.json").read_text())
    names = head_names(report, "micro_stage1", 3)
    assert "Far." in shown and any(name in shown for name in names)
    assert run_score(tiny_run, *asked, *answers, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == found["ranking"][0]["number"]
    assert {"reward", "head_rewards", "weights", "method", "response"} <= found["ranking"][0].keys()


def test_lines_come_back_in_order_and_a_bad_one_does_not_stop_the_others(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    lines = [
        {"prompt": "Hi?", "response": "Yes."},
        {"prompt": "Hi?", "responses": ["Yes.", "No."], "context": "be brief"},
        {"prompt": "Hi?"},
        "not JSON",
        {"prompt": "word " * 400, "response": "Yes."},
        {"prompt": "Hi?", "response": "Yes.", "method": "nonsense"},
        {"prompt": "Hi?", "response": "Yes.", "colour": "red"},
        {"prompt": "Hi?", "response": "Yes.", "group": "long", "method": "micro_hyre"},
    ]
    spelled = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    file = tmp_path / "questions.jsonl"
    file.write_text(spelled + "\n")
    assert run_score(tiny_run, str(file)) == 1
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [result["line"] for result in found] == list(range(1, 9))
    assert ["error" in result for result in found] == [False, False, *[True] * 5, False]
    assert "5 lines could not be scored" in err
    assert found[0]["ranking"][0]["method"] == "micro_stage1"
    assert len(found[1]["ranking"]) == 2 and found[1]["ranking"][0]["method"] == "micro"
    monkeypatch.setattr(sys, "stdin", io.StringIO(spelled))
    assert run_score(tiny_run, "-") == 1
    assert capsys.readouterr().out == out


def test_a_question_without_an_answer_is_an_error_with_an_example(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_score(tiny_run, "--prompt", "Hi?") == 2
    assert '"responses": ["..."]' in capsys.readouterr().err


def test_the_highest_reward_is_the_best() -> None:
    def score(_prompts: Any, responses: list[str], *_rest: Any, **_settings: Any) -> list[Score]:
        return [Score(float(len(text)), [0.0], [1.0], "micro") for text in responses]

    config = ScoreConfig(prompt="Why?", responses=["so", "because", "see"])
    result = score_question(SimpleNamespace(score=score), config)
    assert result["best"] == 1
    assert [row["response"] for row in result["ranking"]] == ["because", "see", "so"]


def test_the_table_cuts_responses_that_are_longer_than_its_column() -> None:
    whole = "x" * SHOWN
    row = {"reward": 1.0, "weights": [1.0], "head_rewards": [1.0]}
    ranking = [row | {"response": text} for text in (whole, whole + "y")]
    *_, shown = ranking_table({"ranking": ranking}, ["head"]).columns
    assert [str(text) for text in shown.cells] == [whole, whole[:-1] + "…"]
