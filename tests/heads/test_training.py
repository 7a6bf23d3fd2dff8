"""Batches, the optimiser's schedule, and whole training runs."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.configs.train import TrainConfig
from micro_rm.heads import epochs
from micro_rm.heads.losses import stage1_objective
from micro_rm.heads.model import ModelSpec, init, log_weights, margins
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import fit, make_optimiser, mean_nll

shuffled_batches = jax.jit(epochs.shuffled_batches, static_argnames=("count", "batch_size"))


@given(
    st.sampled_from([(1, 4), (5, 2), (8, 4), (7, 7), (9, 4)]),
    st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_every_epoch_visits_every_real_row_exactly_once(shape: tuple[int, int], seed: int) -> None:
    """The last batch is filled up, not dropped, and its filling carries no weight."""
    count, batch_size = shape
    batches = shuffled_batches(jax.random.key(seed), count, batch_size)
    steps = -(-count // batch_size)
    assert batches.rows.shape == batches.mask.shape == (steps, batch_size)
    rows, mask = np.asarray(batches.rows).ravel(), np.asarray(batches.mask).ravel()
    assert set(mask.tolist()) <= {0.0, 1.0}
    assert sorted(rows[mask == 1].tolist()) == list(range(count))
    assert (mask[count:] == 0).all()


def test_the_order_depends_on_the_key() -> None:
    orders = {
        tuple(np.asarray(shuffled_batches(jax.random.key(seed), 9, 4).rows).ravel().tolist())
        for seed in range(5)
    }
    assert len(orders) == 5


def learning_rates(config: TrainConfig, steps: int, observed: int) -> np.ndarray:
    """Learning rate of every step: under a constant gradient Adam moves by exactly that much."""
    optimiser = make_optimiser(config, steps)

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], jax.Array]:
        parameter, state = carry
        updates, state = optimiser.update(jnp.array(0.5), state, parameter)
        move = jnp.asarray(updates)
        return (parameter + move, state), -move

    start = jnp.array(0.0)
    _, moves = jax.lax.scan(step, (start, optimiser.init(start)), length=observed)
    return np.asarray(moves)


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine_to_zero() -> None:
    """Section 1: warm-up over ceil(0.05 T) steps. 90 steps: 4.5, so 5."""
    rates = learning_rates(TrainConfig(learning_rate=2e-3, warmup=0.05), 90, 91)
    np.testing.assert_allclose(rates[:6], 2e-3 * np.arange(6) / 5, atol=1e-7)
    assert rates.argmax() == 5
    half = 5 + 85 / 2  # the middle of the cosine lies between two steps
    middle = (rates[int(half)] + rates[int(half) + 1]) / 2
    assert middle == pytest.approx(1e-3, abs=1e-6)
    assert (np.diff(rates[5:]) < 0).all()
    assert 0 < rates[89] < 1e-5
    assert rates[90] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 10), (0.05, 1)])
def test_without_room_for_a_warm_up_the_first_step_has_the_full_rate(
    warmup: float, steps: int
) -> None:
    rates = learning_rates(TrainConfig(learning_rate=2e-3, warmup=warmup), steps, 1)
    assert rates[0] == pytest.approx(2e-3, rel=1e-5)


def test_the_optimiser_is_adamw_behind_a_clip_of_the_global_norm() -> None:
    """Against a plain float64 loop: betas 0.9 and 0.999, epsilon 1e-8, decoupled decay."""
    config = TrainConfig(learning_rate=0.1, warmup=0.0, clip=1.0, weight_decay=0.3)
    steps = 4
    gradients = np.array([[30.0, 40.0], [0.3, -0.4], [0.01, 0.02], [-3.0, 4.0]])
    optimiser = make_optimiser(config, steps)
    params = {"a": jnp.array(1.0), "b": jnp.array(-2.0)}
    state = optimiser.init(params)
    expected, first, second = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(gradients):
        tree = {"a": jnp.asarray(gradient[0]), "b": jnp.asarray(gradient[1])}
        updates, state = optimiser.update(tree, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        clipped = gradient / max(1.0, float(np.linalg.norm(gradient)))
        first, second = 0.9 * first + 0.1 * clipped, 0.999 * second + 0.001 * clipped**2
        rate = 0.1 * (1 + np.cos(np.pi * step / steps)) / 2
        adam = (first / (1 - 0.9 ** (step + 1))) / (
            np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        )
        expected = expected - rate * (adam + 0.3 * expected)
    np.testing.assert_allclose([params["a"], params["b"]], expected, rtol=1e-5)


# --- whole runs -----------------------------------------------------------------------------------

D, K = 4, 2
SPEC = ModelSpec(D, K, "linear")
NO_ROWS = Rows(jnp.zeros((0, D)), jnp.zeros((0, D)))


def random_rows(count: int, seed: int) -> Rows:
    delta, prompt = np.random.default_rng(seed).normal(size=(2, count, D)).astype(np.float32)
    return Rows(jnp.asarray(delta), jnp.asarray(prompt))


def fresh(seed: int = 0) -> Any:
    """New parameters for every run, because ``fit`` donates them."""
    return init(SPEC, jax.random.key(seed))


def test_the_last_partial_batch_counts_with_its_real_rows_only() -> None:
    """Three rows in batches of two: the curve is the mean of a pair's mean and a single row.

    The learning rate is too small to move anything, so every epoch's objective is that of the
    start, and which row came last tells that every epoch has an order of its own.
    """
    rows = random_rows(3, 0)
    config = TrainConfig(
        num_heads=K, learning_rate=1e-12, batch_size=2, epochs=9, router="linear", warmup=0.0
    )
    params = fresh()
    loss = stage1_objective(
        margins(params["heads"], rows.delta_NxD),
        log_weights(SPEC, params["router"], rows.router_input_NxD),
        config.entropy_weight,
    )
    loss_3 = np.asarray(loss, np.float64)
    _, curves = fit(SPEC, params, rows, NO_ROWS, config, jax.random.key(0))
    possible = np.array([(loss_3[row] + np.delete(loss_3, row).mean()) / 2 for row in range(3)])
    gaps_3x9 = np.abs(np.subtract.outer(possible, np.asarray(curves.objective)))
    assert gaps_3x9.min(axis=0).max() < 1e-6
    assert len(set(gaps_3x9.argmin(axis=0).tolist())) > 1
    assert np.isnan(curves.validation_nll).all()  # there are no validation rows


@pytest.fixture(scope="module")
def overfitted() -> dict[str, Any]:
    """The same run with both selections; its validation NLL falls and rises again.

    Every third validation row contradicts the rest, so only a modest margin is right.
    """
    rng = np.random.default_rng(2)
    direction_D = np.array([1.0, 0, 0, 0])
    train = jnp.asarray(direction_D + 0.1 * rng.normal(size=(16, D)), jnp.float32)
    signs = np.where(np.arange(12) % 3 == 0, -1.0, 1.0)[:, None]
    held_out = jnp.asarray(signs * direction_D, jnp.float32)
    train_rows, validation = Rows(train, train), Rows(held_out, held_out)
    results: dict[str, Any] = {"validation": validation}
    for select in ("best", "last"):
        config = TrainConfig(
            num_heads=K,
            learning_rate=0.1,
            batch_size=8,
            epochs=12,
            router="linear",
            select=select,
        )
        results[select] = fit(SPEC, fresh(), train_rows, validation, config, jax.random.key(0))
    return results


def test_best_selection_returns_the_epoch_with_the_smallest_validation_loss(
    overfitted: dict[str, Any],
) -> None:
    params, curves = overfitted["best"]
    best_epoch = int(np.argmin(curves.validation_nll))
    assert 0 < best_epoch < 11, "the fixture must overfit for this test to mean anything"
    reached = float(mean_nll(SPEC, params, overfitted["validation"]))
    assert reached == pytest.approx(float(curves.validation_nll[best_epoch]), abs=1e-6)


def test_last_selection_returns_the_last_epoch_of_the_same_run(overfitted: dict[str, Any]) -> None:
    params, curves = overfitted["last"]
    np.testing.assert_array_equal(curves.validation_nll, overfitted["best"][1].validation_nll)
    reached = float(mean_nll(SPEC, params, overfitted["validation"]))
    assert reached == pytest.approx(float(curves.validation_nll[-1]), abs=1e-6)
    assert reached > float(curves.validation_nll.min()) + 1e-3


@pytest.mark.long
def test_without_validation_rows_best_means_last() -> None:
    """Not the start, which is what a comparison with NaN would keep."""
    config = TrainConfig(
        num_heads=K, learning_rate=0.1, batch_size=4, epochs=2, router="linear", warmup=0.0
    )
    assert config.select == "best"
    rows = random_rows(4, 3)
    params, curves = fit(SPEC, fresh(), rows, NO_ROWS, config, jax.random.key(0))
    reached = stage1_objective(
        margins(params["heads"], rows.delta_NxD),
        log_weights(SPEC, params["router"], rows.router_input_NxD),
        config.entropy_weight,
    )
    assert float(jnp.mean(reached)) < float(curves.objective[1]) < float(curves.objective[0])


def planted_fit(planted: Any, params: Any) -> tuple[Any, Any]:
    """The run of the planted problem from given parameters."""
    problem = planted.problem
    spec = ModelSpec(problem.width, 3, "linear", problem.train_config.router_units)
    train, validation = problem.train.rows, problem.validation.rows
    return fit(spec, params, train, validation, problem.train_config, jax.random.key(0))


def planted_start(planted: Any) -> Any:
    return init(ModelSpec(planted.problem.width, 3, "linear"), jax.random.key(0))


def test_identical_heads_never_separate_but_random_ones_do(planted: Any) -> None:
    """From identical columns under a uniform router every head gets the same gradient."""
    start = planted_start(planted)
    start["heads"]["kernel"] = jnp.repeat(start["heads"]["kernel"][:, :1], 3, axis=1)
    start["router"] = jax.tree.map(jnp.zeros_like, start["router"])
    params, _ = planted_fit(planted, start)
    kernel_DxK = np.asarray(params["heads"]["kernel"])
    assert np.abs(kernel_DxK).max() > 0.1
    np.testing.assert_allclose(kernel_DxK, np.repeat(kernel_DxK[:, :1], 3, axis=1), atol=1e-5)
    separated, _ = planted_fit(planted, planted_start(planted))
    cosine_KxK = np.corrcoef(np.asarray(separated["heads"]["kernel"]).T)
    assert np.abs(cosine_KxK - np.eye(3)).max() < 0.3


@pytest.mark.long
def test_labels_without_meaning_leave_log_2() -> None:
    """With random signs nothing can be learned, and held-out loss does not fall below log 2.

    The noise of the mean over 2,000 rows, for the small margins that training ends with, is well
    below 0.01.
    """
    spec, rows = ModelSpec(D, 3, "linear"), random_rows(4000, 6)
    train, held_out = (Rows(*(leaf[half::2] for leaf in rows)) for half in (0, 1))
    config = TrainConfig(
        num_heads=3, entropy_weight=0.0, learning_rate=1e-2, epochs=10, router="linear"
    )
    start = init(spec, jax.random.key(0))
    tiny = jax.tree.map(lambda leaf: 1e-6 * leaf, start)
    assert float(mean_nll(spec, tiny, held_out)) == pytest.approx(np.log(2), abs=1e-6)
    _, curves = fit(spec, start, train, held_out, config, jax.random.key(0))
    assert float(curves.validation_nll[-1]) == pytest.approx(np.log(2), abs=0.01)
    assert float(curves.validation_nll.min()) > np.log(2) - 0.005


def test_training_leaves_the_features_as_they_are(planted: Any) -> None:
    """Only parameters are donated to the compiled run."""

    def digest() -> str:
        rows = (*planted.problem.train.rows, *planted.problem.validation.rows)
        return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in rows)).hexdigest()

    before = digest()
    planted_fit(planted, planted_start(planted))
    assert digest() == before
