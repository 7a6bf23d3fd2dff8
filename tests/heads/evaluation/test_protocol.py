"""Which rows are scored, and the two ways in which a test set can be unusable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.evaluation import protocol
from micro_rm.heads.features import partition
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.model import ModelSpec
from micro_rm.heads.training import Rows


def test_a_test_set_numbers_its_prompts_and_attributes(tiny: Any) -> None:
    rows = partition(tiny.table, 0.2).test
    test = protocol.make_test_set(tiny.table, rows)
    assert test.attributes == ("brief", "polite")
    assert test.prompts == 20
    np.testing.assert_array_equal(test.table_rows, np.arange(80, 120))
    np.testing.assert_array_equal(test.attribute_N, np.tile([0, 1], 20))
    assert sorted(set(test.prompt_N.tolist())) == list(range(20))
    prompt_id = np.asarray(tiny.table.text["prompt_id"])[test.table_rows]
    for number in range(20):
        assert len(set(prompt_id[test.prompt_N == number])) == 1


def test_rows_without_an_attribute_are_named_as_such(tiny: Any) -> None:
    table = replace(tiny.table, text={**tiny.table.text, "attribute": [""] * len(tiny.table)})
    assert protocol.make_test_set(table, np.arange(80, 120)).attributes == ("(none)",)


def test_no_test_rows_at_all_is_an_error_with_three_remedies(tiny: Any) -> None:
    with pytest.raises(protocol.EvaluationError) as caught:
        protocol.make_test_set(tiny.table, np.array([], np.int64))
    assert str(caught.value) == (
        "data set 'tiny' has no test rows; give a test file (--data.test), a split column, or "
        "raise data.test_fraction"
    )


def test_an_attribute_without_test_rows_is_named_with_its_training_rows(tiny: Any) -> None:
    brief_only = np.arange(80, 120, 2)
    with pytest.raises(
        protocol.EvaluationError,
        match=r"no test rows for attribute 'polite' \(60 rows\); add test rows, or leave .*"
        r"data\.attributes",
    ):
        protocol.make_test_set(tiny.table, brief_only)


def constant_model(logits_K: list[float]) -> Trained:
    """Two heads that read one coordinate each, under fixed weights."""
    spec = ModelSpec(2, 2, "static")
    return Trained(
        spec, {"heads": {"kernel": jnp.eye(2)}, "router": {"logits": jnp.array([logits_K])}}
    )


def test_every_model_is_scored_on_the_same_rows_under_its_own_rule() -> None:
    """G-E1 through the whole scorer: R1 rejects what R2 accepts."""
    model = constant_model(np.log([0.3, 0.7]).tolist())
    rows = Rows(jnp.array([[6.0, -1.0], [0.0, 0.0], [3.0, 3.0]]), jnp.zeros((3, 2)))
    scored = protocol.score({"a": model, "b": model}, {"a": "R1", "b": "R2"}, rows)
    assert [scored["a"].rule, scored["b"].rule] == ["R1", "R2"]
    assert scored["a"].correct_SxN.tolist() == [[0.0, 0.5, 1.0]]
    assert scored["b"].correct_SxN.tolist() == [[1.0, 0.5, 1.0]]
    assert scored["a"].tie_SxN.tolist() == scored["b"].tie_SxN.tolist() == [[False, True, False]]
    np.testing.assert_allclose(np.exp(scored["a"].log_prob_SxN[0, :2]), [0.4875, 0.5], atol=5e-5)


@pytest.mark.parametrize("rule", ["R1", "R2"])
def test_one_head_is_scored_the_same_under_any_router(rule: str) -> None:
    """G-E6: random weights on K = 1 change nothing."""
    delta, prompt = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    rows = Rows(jnp.asarray(delta), jnp.asarray(prompt))
    heads = {"kernel": jnp.ones((3, 1))}
    static = Trained(
        ModelSpec(3, 1, "static"), {"heads": heads, "router": {"logits": jnp.array([[5.0]])}}
    )
    output = {"kernel": jnp.full((1, 3, 1), 7.0), "bias": jnp.array([[-2.0]])}
    linear = Trained(ModelSpec(3, 1, "linear"), {"heads": heads, "router": {"output": output}})
    one, other = protocol.score({"s": static, "l": linear}, {"s": rule, "l": rule}, rows).values()
    jax.tree.map(np.testing.assert_array_equal, one.prediction, other.prediction)
    np.testing.assert_array_equal(one.correct_SxN, other.correct_SxN)
    np.testing.assert_array_equal(one.log_prob_SxN, other.log_prob_SxN)


def test_validation_accuracies_are_per_head_and_numbered_as_the_test_attributes(tiny: Any) -> None:
    """Rows of attributes that are not tested are left out; a tested one without rows is NaN."""
    text = {**tiny.table.text, "attribute": ["b", "a", "a", "", "odd"] * 24}
    table = replace(tiny.table, text=text)
    test = replace(
        protocol.make_test_set(tiny.table, np.arange(80, 120)), attributes=("a", "b", "(none)", "c")
    )
    rows = Rows(jnp.array([[1.0, -1], [1, -1], [-1, -1], [0, 1], [1, 1]]), jnp.zeros((5, 2)))
    model = constant_model([0.0, 0.0])
    found = protocol.validation_accuracies({"m": model}, rows, table, np.arange(5), test)
    np.testing.assert_array_equal(found["m"], [[0.5, 1.0, 0.5, np.nan], [0.0, 0.0, 1.0, np.nan]])
