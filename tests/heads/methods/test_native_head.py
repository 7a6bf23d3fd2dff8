"""The backbone's own reward head as a method: copied, not trained."""

from __future__ import annotations

from typing import Any

import numpy as np

from micro_rm.heads.methods import load_method

NATIVE_HEAD = load_method("native_head")
HEAD_D = np.array([0.5, -1.0, 2.0])


def test_the_head_is_kept_as_it_came_and_scores_differences(
    make_examples: Any, make_problem: Any
) -> None:
    """Whatever the training rows say: here they contradict it."""
    train = make_examples(-np.tile(HEAD_D, (20, 1)))
    trained = NATIVE_HEAD.fit(make_problem(train, native_head_D=HEAD_D), {})
    np.testing.assert_array_equal(trained.params["head"], HEAD_D.astype(np.float32))
    delta_NxD = np.array([[2.0, 0, 0], [0, 3, 0], [0, 2, 1]])
    prediction = NATIVE_HEAD.predict(trained, make_examples(delta_NxD, np.full((3, 3), 9.0)))
    np.testing.assert_allclose(prediction.statistic_SxN, [[1.0, -3.0, 0.0]])
    np.testing.assert_allclose(
        np.exp(prediction.log_prob_SxN), 1 / (1 + np.exp([[-1.0, 3.0, 0.0]]))
    )
    assert prediction.heads is None


def test_it_is_left_out_where_the_backbone_has_none() -> None:
    assert NATIVE_HEAD.needs == ("native_head",)
    assert (NATIVE_HEAD.stage, NATIVE_HEAD.given, NATIVE_HEAD.after) == ("train", "prompt", ())
