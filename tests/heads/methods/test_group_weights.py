"""Every row is answered under the weights of its group."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.heads.methods.group_weights import predict_by_group
from micro_rm.heads.methods.interface import NO_LABEL, Examples, Rule, Trained, predict_heads
from micro_rm.heads.rows import Rows

N, D, K, GROUPS, DRAWS = 5, 4, 3, 2, 2


@pytest.mark.parametrize(("rule", "argument"), [("R2", None), ("R1", "R1")])
def test_rows_get_the_weights_of_their_group_and_strangers_the_last(
    rule: Rule, argument: Rule | None
) -> None:
    rng = np.random.default_rng(0)
    delta, kernel = rng.normal(size=(N, D)), rng.normal(size=(D, K))
    w = rng.dirichlet(np.ones(K), size=(DRAWS, GROUPS + 1))
    group_N = np.array([0, 1, NO_LABEL, 1, 0])
    none_N = np.full(N, NO_LABEL)
    rows = Rows(jnp.asarray(delta, jnp.float32), jnp.zeros((N, 1)))
    examples = Examples(rows, none_N, none_N, group_N, np.zeros(N), lambda: None)
    trained = Trained({"heads": {"kernel": kernel}, "log_weights": np.log(w)}, {"rule": "R2"})
    found = predict_by_group(trained, examples, argument)
    expected_SxNxK = np.log(w[:, [0, 1, GROUPS, 1, 0]])
    expected = predict_heads(rule, delta @ kernel, expected_SxNxK)
    assert found.heads is not None
    np.testing.assert_allclose(found.heads.log_weights_SxNxK, expected_SxNxK)
    np.testing.assert_allclose(found.statistic_SxN, expected.statistic_SxN, atol=1e-5)
    np.testing.assert_allclose(found.log_prob_SxN, expected.log_prob_SxN, atol=1e-5)
