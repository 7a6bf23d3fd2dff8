"""Training of stage 1 beside the loops that people write, on the same rows in one process.

    python benchmarks/heads.py [--precision float32] [--router mlp] [--rounds 5] [--small] [--json]

Peers of one epoch:
    torch_eager    PyTorch, features in memory, rows by index_select
    torch_fused    the same with a fused AdamW
    torch_autocast features in bfloat16 and autocast, beside bfloat16 of ours only
    torch_compile  the forward and backward pass compiled, with --compile
    loader_0, _2   a DataLoader over the rows, in the process or with two workers
    jax_host       a jitted step in a Python loop, kernels as (D, K)
``peer`` names the faster of the first two. All but autocast compute in float32, whatever ours does,
and must have the same loss curve as ours. Peers take turns with ours in every round; ratios are of
medians. Compilation is reported apart. The limit is the larger of the products' FLOPs at the best
matrix rate and one reading of the features at the bandwidth measured here.

K = 1 is solved exactly: L-BFGS of ours and of scikit-learn, with as many iterations as each needs
to come within 1e-6 of the optimum. The last line is JSON.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info

from micro_rm.benchmarks.peers import (
    PRECISIONS,
    TOLERANCE,
    Case,
    Data,
    Run,
    TorchLoop,
    Way,
    against,
    alternate,
    begin,
    bound,
    columns_of,
    finish,
    machine,
    make_data,
    note_rates,
    ours,
    parser,
    product_rate,
    seconds_of,
    show,
)
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.lbfgs import minimise
from micro_rm.heads.losses import head_nll, stage1_objective
from micro_rm.heads.methods.single_bt_exact import solve_bt
from micro_rm.heads.model import ModelSpec, log_weights, margins
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import make_optimiser

GATE_EPOCHS = 2
EXCESS = 1e-6  # loss above the optimum, relative, at which K = 1 counts as solved
MOST_STEPS = 2000


class HostLoop:
    """A jitted step with optax in a Python loop: kernels as (D, K), features in memory."""

    def __init__(self, rows: Rows, case: Case) -> None:
        count, size = len(rows.delta_NxD), case.config.batch_size
        self.case, self.rows = case, rows
        self.optimiser = make_optimiser(case.config, len(case.shares(count)) - 1)
        self.epochs = [
            [jnp.asarray(order[start : start + size]) for start in range(0, count, size)]
            for order in case.orders(count)
        ]
        self.step = jax.jit(self._step, donate_argnums=(0, 1))

    def _step(self, params: Any, state: Any, rows: Rows, places: Any) -> Any:
        def objective(params: Any) -> jax.Array:
            margin = margins(params["heads"], rows.delta_NxD[places])
            weight = log_weights(self.case.spec, params["router"], rows.router_input_NxD[places])
            return stage1_objective(margin, weight, self.case.config.entropy_weight).mean()

        loss, gradient = jax.value_and_grad(objective)(params)
        updates, state = self.optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    def __call__(self) -> Run:
        """Fresh weights and optimiser, ready to run."""
        params = self.case.params
        return partial(self._run, params, self.optimiser.init(params))

    def _run(self, params: Any, state: Any) -> np.ndarray:
        means = []
        for batches in self.epochs:
            losses = []
            for places in batches:
                params, state, loss = self.step(params, state, self.rows, places)
                losses.append(loss)
            means.append(jnp.mean(jnp.stack(losses)))
        jax.block_until_ready(params)
        return np.array(means)


def ways_of(data: Data, case: Case, *, compiled: bool, peers: bool = True) -> dict[str, Way]:
    """Everyone; without ``peers`` those that the gate compares."""
    precision = case.spec.precision
    ways: dict[str, Way] = {
        "ours": ours(data.rows(precision), case),
        "torch_eager": TorchLoop(data, case),
        "jax_host": HostLoop(data.rows("float32"), float_case(case)),
    }
    if peers:
        ways["torch_fused"] = TorchLoop(data, case, fused=True)
        ways["loader_0"] = TorchLoop(data, case, workers=0)
        ways["loader_2"] = TorchLoop(data, case, workers=2)
    if peers and precision == "bfloat16":
        ways["torch_autocast"] = TorchLoop(data, case, fused=True, autocast=True)
    if peers and compiled:
        ways["torch_compile"] = TorchLoop(data, case, fused=True, compiled=True)
    return ways


def float_case(case: Case) -> Case:
    """The same in float32."""
    return Case(replace(case.spec, precision="float32"), case.config, case.seed)


def gate(ways: dict[str, Way]) -> tuple[dict[str, float], float]:
    """Largest difference of every curve to that of ours; seconds ours takes to compile."""
    first, mine = seconds_of(ways["ours"])
    again, repeated = seconds_of(ways["ours"])
    assert np.array_equal(mine, repeated)
    others = {name: seconds_of(way)[1] for name, way in ways.items() if name != "ours"}
    errors = {name: float(np.abs(curve - mine).max()) for name, curve in others.items()}
    return errors, first - again


def limits(case: Case, rows: int, mine: float, rates: dict[str, float]) -> dict[str, Any]:
    """What the epoch would take at the rates of this machine, and with products of its shapes."""
    spec, size = case.spec, case.config.batch_size
    found = bound([spec], rows, mine, rates)
    # (B, D) by (K, D) transposed, and the gradient, (K, B) by (B, D).
    step = sum(
        2 * size * spec.width * number / product_rate(*shapes, spec.precision)
        for number in columns_of(spec)
        for shapes in (
            ((size, spec.width), (number, spec.width)),
            ((number, size), (spec.width, size)),
        )
    )
    shaped = step * found["passes"] * rows / size
    return found | {"products_of_these_shapes": {"seconds": shaped, "fraction": shaped / mine}}


def measure(
    options: Any, data: Data, router: Any, precision: Any, rates: dict[str, float]
) -> dict[str, Any]:
    """Gate, rounds and limits of one configuration."""
    spec = ModelSpec(options.width, options.heads, router, precision=precision)

    def case_of(epochs: int) -> Case:
        config = TrainConfig(
            num_heads=options.heads,
            batch_size=options.batch,
            epochs=epochs,
            router=router,
            precision=precision,
            select="last",
        )
        return Case(spec, config)

    long = ways_of(data, case_of(GATE_EPOCHS), compiled=False, peers=False)
    errors, _ = gate(long)
    ways = ways_of(data, case_of(1), compiled=options.compile)
    more, compile_s = gate(ways)
    errors = {f"{name}, {GATE_EPOCHS} epochs": error for name, error in errors.items()} | more
    compared = [error for name, error in errors.items() if name != "torch_autocast"]
    note_rates(rates, precision)
    timed = against(alternate(ways, options.rounds))
    note_rates(rates, precision)
    eager = {name: timed["peers"][name]["seconds"] for name in ("torch_eager", "torch_fused")}
    return {
        "name": f"heads-{router}-{precision}",
        "equal": max(compared) <= TOLERANCE[precision],
        "largest_difference": errors,
        "objective": long["ours"]()().tolist(),
        **timed,
        "peer": min(eager, key=lambda name: eager[name]),
        "compile_s": compile_s,
        **limits(case_of(1), options.rows, timed["ours_s"], rates),
    }


def fewest(loss_after: Callable[[int], float], goal: float) -> int:
    """Iterations, within a sixteenth of the fewest, that bring the loss to the goal."""
    enough = 8
    while loss_after(enough) > goal:
        enough *= 2
        if enough > MOST_STEPS:
            raise RuntimeError(f"loss above {goal} after {enough // 2} iterations")
    short = enough // 2
    while enough - short > max(1, enough // 16):
        middle = (short + enough) // 2
        if loss_after(middle) <= goal:
            enough = middle
        else:
            short = middle
    return enough


def exact(options: Any, data: Data, rates: dict[str, float]) -> dict[str, Any]:
    """One head: L-BFGS of ours and of scikit-learn to the same loss."""
    delta, count = data.delta, len(data.delta)
    ridge = 1.0 / count  # scikit-learn's default, C = 1
    label = np.arange(count) % 2  # a pair the other way round, labelled 0, has the same loss
    signed = np.ascontiguousarray(delta * (2 * label - 1)[:, None].astype(np.float32))
    rows = jnp.asarray(delta)

    @jax.jit
    def solve(delta_NxD: jax.Array, steps: jax.Array) -> jax.Array:
        def loss(head_D: jax.Array) -> jax.Array:
            nll = jnp.mean(head_nll(delta_NxD @ head_D))
            return nll + 0.5 * ridge * jnp.sum(head_D**2)

        start = jnp.zeros(delta_NxD.shape[1])
        return minimise(loss, start, cast(int, steps), 0.0)[0]

    def by_sklearn(steps: int) -> np.ndarray:
        model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it stopped early
            return model.fit(signed, label).coef_[0]

    def by_ours(steps: int) -> np.ndarray:
        return np.asarray(solve(rows, jnp.asarray(steps)))

    def loss_of(head: np.ndarray) -> float:
        wide = head.astype(np.float64)
        margin = np.concatenate([part.astype(np.float64) @ wide for part in _parts(delta)])
        return float(np.logaddexp(0, -margin).mean() + 0.5 * ridge * wide @ wide)

    compile_s = seconds_of(lambda: lambda: by_ours(1))[0]
    reference = LogisticRegression(
        C=1.0, fit_intercept=False, tol=1e-9, max_iter=MOST_STEPS, warm_start=True
    )
    reference.coef_ = by_ours(MOST_STEPS // 4)[None].astype(np.float64)
    best = loss_of(reference.fit(signed.astype(np.float64), label).coef_[0])
    solvers = {"ours": by_ours, "sklearn_lbfgs": by_sklearn}
    goal = best * (1 + EXCESS)
    steps = {
        name: fewest(lambda number, way=way: loss_of(way(number)), goal)
        for name, way in solvers.items()
    }
    ways: dict[str, Way] = {
        name: partial(partial, way, steps[name]) for name, way in solvers.items()
    }
    timed = against(alternate(ways, options.rounds))
    note_rates(rates, "float32")
    whole = seconds_of(lambda: lambda: np.asarray(solve_bt(rows, ridge)[0]))
    losses = {name: loss_of(way(steps[name])) for name, way in solvers.items()}
    bound = steps["ours"] * 2 * delta.nbytes / rates["bytes"]
    what = f"{steps['ours']} times two readings at {rates['bytes'] / 1e9:.1f} GB/s"
    return {
        "name": "heads-exact-float32",
        "equal": all(abs(loss / best - 1) <= 2 * EXCESS for loss in losses.values()),
        "largest_difference": {name: loss / best - 1 for name, loss in losses.items()},
        **timed,
        "peer": "sklearn_lbfgs",
        "compile_s": compile_s,
        "limit": {"what": what, "seconds": bound, "fraction": bound / timed["ours_s"]},
        "iterations": steps,
        "solve_bt": {"first_call_s": whole[0], "excess": loss_of(whole[1]) / best - 1},
        "threads": {str(pool["user_api"]): pool["num_threads"] for pool in threadpool_info()},
    }


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + 4096] for start in range(0, len(array), 4096)]


def main() -> None:
    """Run the chosen configurations."""
    made = parser("Stage-1 training beside its peers.")
    made.add_argument("--precision", choices=[*PRECISIONS, "all"], default="float32")
    made.add_argument(
        "--compile", action="store_true", help="torch.compile too, which takes a C++ compiler"
    )
    made.add_argument("--no_exact", action="store_true", help="leave K = 1 out")
    options = begin(made)
    facts, data = machine(), make_data(options.rows, options.width)
    rates: dict[str, float] = {}
    precisions = PRECISIONS if options.precision == "all" else [options.precision]
    results = []
    for router in options.routers:
        for precision in precisions:
            results.append(measure(options, data, router, precision, rates))
            show(results[-1], options)
    if not options.no_exact:
        results.append(exact(options, data, rates))
        show(results[-1], options)
    finish("heads", options, facts | {"rates": rates}, results)


if __name__ == "__main__":
    main()
