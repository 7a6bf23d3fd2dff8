"""Building and scoring a test set, and the two ways in which one is unusable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.heads.evaluation import protocol
from micro_rm.heads.evaluation.metrics import head_accuracy
from micro_rm.heads.methods.interface import HeadOutputs, predict_heads, predict_reward
from micro_rm.heads.partition import partition

S, N, K = 3, 12, 4
TEST = np.arange(80, 120)


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


def with_text(tiny: Any, **text: list[str]) -> Any:
    return replace(tiny.table, text={**tiny.table.text, **text})


def test_rows_without_an_attribute_are_named_as_such(tiny: Any) -> None:
    table = with_text(tiny, attribute=[""] * len(tiny.table))
    assert protocol.make_test_set(table, TEST).attributes == ("(none)",)


def test_rows_of_one_wish_are_numbered_alike_unless_a_test_row_has_none(tiny: Any) -> None:
    wishes = [f"wish {row % 3}" for row in range(120)]
    wishes[0] = ""  # a training row
    wording_N = protocol.make_test_set(with_text(tiny, context=wishes), TEST).wording_N
    assert wording_N is not None
    assert len(set(wording_N.tolist())) == 3
    assert len(set(zip(wording_N.tolist(), wishes[80:], strict=True))) == 3
    wishes[100] = ""
    assert protocol.make_test_set(with_text(tiny, context=wishes), TEST).wording_N is None


def test_no_test_rows_at_all_is_an_error_with_three_remedies(tiny: Any) -> None:
    with pytest.raises(protocol.EvaluationError) as caught:
        protocol.make_test_set(tiny.table, np.array([], np.int64))
    assert str(caught.value) == (
        "data set 'tiny' has no test rows; give a test file (--data.test), a split column, or "
        "raise data.test_fraction"
    )


def test_an_attribute_without_test_rows_is_named_with_its_training_rows(tiny: Any) -> None:
    message = (
        r"no test rows for attribute 'polite' \(60 rows\); add test rows, or leave .*"
        r"data\.attributes"
    )
    with pytest.raises(protocol.EvaluationError, match=message):
        protocol.make_test_set(tiny.table, TEST[::2])


def test_attributes_of_other_rows_are_numbered_as_the_test_attributes(tiny: Any) -> None:
    """Rows of attributes that the test set lacks get -1."""
    table = with_text(tiny, attribute=["b", "a", "a", "", "odd"] * 24)
    test = protocol.make_test_set(tiny.table, TEST)
    test = replace(test, attributes=("a", "b", "(none)", "c"))
    found = protocol.attribute_indices(table, np.array([4, 0, 1, 3, 2]), test)
    assert found.tolist() == [-1, 1, 0, 2, 0]


# --- judging a prediction -------------------------------------------------------------------------


def test_rows_are_judged_by_the_statistic_of_the_methods_own_rule() -> None:
    """One large margin against a likely small one: R1 rejects what R2 accepts."""
    delta_NxK = np.array([[6.0, -1.0], [0.0, 0.0], [3.0, 3.0]])
    log_weights = np.log(np.tile([0.3, 0.7], (1, 3, 1)))
    one, other = (
        protocol.score(predict_heads(rule, delta_NxK, log_weights), rule) for rule in ("R1", "R2")
    )
    assert (one.rule, other.rule) == ("R1", "R2")
    assert one.correct_SxN.tolist() == [[0.0, 0.5, 1.0]]
    assert other.correct_SxN.tolist() == [[1.0, 0.5, 1.0]]
    assert one.tie_SxN.tolist() == other.tie_SxN.tolist() == [[False, True, False]]
    np.testing.assert_allclose(np.exp(one.log_prob_SxN[0, :2]), [0.4875, 0.5], atol=5e-5)
    assert one.heads is not None and one.heads.delta_NxK is delta_NxK


def test_all_rows_count_unless_a_draw_of_the_method_took_them() -> None:
    """A method without draws has adapted to no row, whatever the others took."""
    mask_SxN = np.random.default_rng(0).random((S, N)) < 0.5
    adapted = protocol.score(predict_reward(np.ones((S, N))), "R2", mask_SxN)
    np.testing.assert_array_equal(adapted.counts_SxN, mask_SxN)
    plain = protocol.score(predict_reward(np.ones((1, N))), "R2", mask_SxN)
    np.testing.assert_array_equal(plain.counts_SxN, np.ones((1, N), bool))
    unasked = protocol.score(predict_reward(np.ones((S, N))), "R2")
    np.testing.assert_array_equal(unasked.counts_SxN, np.ones((S, N), bool))


@given(
    hnp.arrays(np.int8, (S, N), elements=st.integers(-1, 1)),
    hnp.arrays(bool, (S, N)),
)
@settings(deadline=None, max_examples=60)
def test_a_row_is_worth_its_mean_over_the_draws_that_score_it(
    sign_SxN: np.ndarray, mask_SxN: np.ndarray
) -> None:
    """What a draw decides on a row that it has adapted to changes nothing."""
    scored = protocol.score(predict_reward(sign_SxN.astype(float)), "R2", mask_SxN)
    for row in range(N):
        values = [(s + 1) / 2 for s, m in zip(sign_SxN[:, row], mask_SxN[:, row], strict=True) if m]
        result = scored.mean_correct_N[row]
        assert np.isnan(result) if not values else result == pytest.approx(np.mean(values))
    lies_SxN = np.where(mask_SxN, sign_SxN, -sign_SxN).astype(float)
    other = protocol.score(predict_reward(lies_SxN), "R2", mask_SxN)
    np.testing.assert_array_equal(other.mean_correct_N, scored.mean_correct_N)


# --- one head alone -------------------------------------------------------------------------------


def heads_of(delta_NxK: np.ndarray) -> HeadOutputs:
    """Heads under weights that no best-head row may read."""
    return HeadOutputs(delta_NxK, np.full((1, *delta_NxK.shape), np.nan))


def test_the_best_head_of_a_rows_attribute_decides_alone(make_test_rows: Any) -> None:
    """For r no row could select, so that the first head decides."""
    test = make_test_rows([0, 1, 1, 2], range(4), "p", "q", "r")
    delta_NxK = np.array([[1.0, -2], [3, 0], [5, -6], [2, -1]])
    select_KxA = np.array([[0.9, 0.1, np.nan], [0.2, 0.8, np.nan]])
    scored = protocol.score_best_heads(heads_of(delta_NxK), test, select_KxA)
    assert scored.correct_SxN.tolist() == [[1.0, 0.5, 0.0, 1.0]]
    assert scored.tie_SxN.tolist() == [[False, True, False, False]]
    wins_N = 1 / (1 + np.exp([-1.0, 0, 6, -2]))
    np.testing.assert_allclose(np.exp(scored.log_prob_SxN), [wins_N])
    assert scored.heads is None
    half_known = np.array([[np.nan, 0.2, 0.2], [0.1, 0.1, 0.9]])
    scored = protocol.score_best_heads(heads_of(delta_NxK), test, half_known)
    assert scored.correct_SxN.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@given(
    hnp.arrays(np.float32, (N, K), elements=st.integers(-2, 2)),
    hnp.arrays(np.int64, N, elements=st.integers(0, 2)),
    hnp.arrays(np.float64, (K, 3), elements=st.floats(0, 1) | st.just(np.nan)),
)
@settings(deadline=None, max_examples=100)
def test_the_oracle_is_at_least_as_good_as_any_other_choice_in_every_attribute(
    make_test_rows: Any, delta_NxK: np.ndarray, attribute_N: np.ndarray, select_KxA: np.ndarray
) -> None:
    """This holds by construction, ties included; the value is the best head's accuracy."""
    test = make_test_rows(attribute_N, np.arange(N), "p", "q", "r")
    with np.errstate(invalid="ignore"):
        accuracy_KxA = head_accuracy(delta_NxK, attribute_N, 3)
    oracle, chosen = (
        protocol.score_best_heads(heads_of(delta_NxK), test, by).correct_SxN[0]
        for by in (accuracy_KxA, select_KxA)
    )
    for number in set(attribute_N.tolist()):
        rows = attribute_N == number
        assert oracle[rows].mean() >= chosen[rows].mean()
        assert oracle[rows].mean() == pytest.approx(accuracy_KxA[:, number].max())
