"""A sweep in one program beside loops over its members, on the same rows in one process.

    python benchmarks/sweep.py [--members 16] [--router mlp] [--precision float32] [--json]
    python benchmarks/sweep.py --scaling FILE.svg     how time grows with N, d, K and members

Members have K from 2 to 10 in turn, another seed and half the learning rate after every nine. Ours
fits all of them in one call, compiled once, padded to K = 10. Peers run one member after another,
each with its own K, features in memory:
    torch_eager, torch_fused   PyTorch eager, with plain and with fused AdamW
    jax_solo                   ``fit`` for every member: a program for every K
PyTorch computes in float32, whatever --precision ours has. Peers run ``--peer_members`` of the
members, evenly chosen, and are scaled up to all of them; by default 4, or all with --rounds 1.
Before the clock starts, every member of a sweep over a part of the rows must have the loss curve
that it has alone (with --quick_gate those that peers run), and some that of PyTorch; the epoch that
is timed is compared too. Compilation is not in the times. The last line is JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from micro_rm.benchmarks.peers import (
    ORDER_KEY,
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
    finish,
    machine,
    make_data,
    note_rates,
    ours,
    parser,
    seconds_of,
    show,
)
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.model import ModelSpec, init
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import Hyperparams, TrainSpec, fit_members

LEAST_HEADS = 2
RATE = 2e-3
GATE_ROWS, GATE_EPOCHS = 4096, 3
SCALING_BASE = {"rows": 8192, "width": 1024, "heads": 10, "members": 1}
SCALING = {
    "rows": (2048, 4096, 8192, 16384),
    "width": (256, 512, 1024, 3072),
    "heads": (2, 5, 10, 20),
    "members": (1, 4, 16, 64),
}
SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1)
AXES = {"rows": "N, rows", "width": "d, feature width", "heads": "K, heads", "members": "members"}
COLOURS = {"mlp": "#1f5fa8", "linear": "#d1711c"}


def cases_of(options: Any, router: Any, epochs: int, precision: Any) -> list[Case]:
    """The members, each as a configuration of its own."""
    cases = []
    for member in range(options.members):
        seed, place = divmod(member, options.heads + 1 - LEAST_HEADS)
        config = TrainConfig(
            num_heads=LEAST_HEADS + place,
            batch_size=options.batch,
            epochs=epochs,
            router=router,
            learning_rate=RATE / (1 + seed % 2),
            precision=precision,
            select="last",
        )
        spec = ModelSpec(options.width, config.num_heads, router, precision=precision)
        cases.append(Case(spec, config, seed))
    return cases


def together(rows: Rows, cases: Sequence[Case]) -> Way:
    """All members in one call of ``fit_members``, padded to the largest K."""
    spec = replace(cases[0].spec, num_heads=max(case.spec.num_heads for case in cases))
    train_spec = TrainSpec.from_config(cases[0].config, validated=False)
    members = _stacked(
        [Hyperparams.from_config(case.config, case.spec.num_heads) for case in cases]
    )
    none = jax.tree.map(lambda array: array[:0], rows)

    def prepare() -> Run:
        started = [init(spec, jax.random.key(case.seed)) for case in cases]
        return partial(run, jax.block_until_ready(_stacked(started)))

    def run(params: Any) -> np.ndarray:
        key = jax.random.key(ORDER_KEY)
        found = fit_members(spec, train_spec, params, members, rows, none, key)
        return np.asarray(jax.block_until_ready(found)[1].objective)

    return prepare


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def in_turn(ways: Sequence[Way]) -> Way:
    """One member after another; the curves of all."""

    def prepare() -> Run:
        runs = [way() for way in ways]
        return lambda: np.stack([run() for run in runs])

    return prepare


def programs() -> int:
    """Compiled versions of ``fit_members`` so far."""
    return cast(Any, fit_members)._cache_size()


def gate(options: Any, data: Data, router: Any, some: np.ndarray) -> dict[str, float]:
    """Largest difference of curves over a part of the rows: all members alone, some in PyTorch."""
    part = data.part(GATE_ROWS)
    cases = cases_of(options, router, GATE_EPOCHS, options.precision)
    rows = part.rows(options.precision)
    mine = together(rows, cases)()()
    compared = some if options.quick_gate else np.arange(len(cases))
    alone = in_turn([ours(rows, cases[place]) for place in compared])()()
    torch = in_turn([TorchLoop(part, cases[place]) for place in some])()()
    size = f"{len(part.delta)} rows, {GATE_EPOCHS} epochs"
    return {
        f"jax_solo, {size}": float(np.abs(mine[compared] - alone).max()),
        f"torch_eager, {size}": float(np.abs(mine[some] - torch).max()),
    }


def measure(options: Any, data: Data, router: Any, rates: dict[str, float]) -> dict[str, Any]:
    """Gate, rounds and limit of the sweep with one kind of router."""
    some = np.linspace(0, options.members - 1, options.peer_members).round().astype(int)
    errors = gate(options, data, router, some)
    precision = options.precision
    cases = cases_of(options, router, 1, precision)
    loops = [[TorchLoop(data, cases[at], fused=fused) for at in some] for fused in (None, True)]
    rows = data.rows(precision)
    ways = {"ours": together(rows, cases)}
    before = programs()
    first, _ = seconds_of(ways["ours"])
    again, mine = seconds_of(ways["ours"])
    count = programs() - before
    assert count == 1, f"{count} compilations"
    ways["torch_eager"], ways["torch_fused"] = map(in_turn, loops)
    ways["jax_solo"] = in_turn([ours(rows, cases[at]) for at in some])
    before = programs()
    for name in ("torch_eager", "torch_fused", "jax_solo"):
        errors[name] = float(np.abs(seconds_of(ways[name])[1] - mine[some]).max())
    solo_programs = programs() - before
    note_rates(rates, precision)
    seconds = alternate(ways, options.rounds)
    note_rates(rates, precision)
    scale = options.members / len(some)
    for name in errors.keys() & seconds.keys():
        seconds[name] = [value * scale for value in seconds[name]]
    timed = against(seconds)
    eager = {name: timed["peers"][name]["seconds"] for name in ("torch_eager", "torch_fused")}
    heads = [cases[at].spec.num_heads for at in some]
    note = f"peers ran {len(some)} of {options.members} members (K = {heads})"
    if scale != 1:
        note += f" and were scaled up {scale:g} times"
    return {
        "name": f"sweep-{router}-{precision}",
        "equal": max(errors.values()) <= TOLERANCE[precision],
        "largest_difference": errors,
        **timed,
        "peer": min(eager, key=lambda name: eager[name]),
        "compile_s": first - again,
        "compilations": {"ours": count, "jax_solo": solo_programs},
        **bound([case.spec for case in cases], options.rows, timed["ours_s"], rates),
        "members": options.members,
        "peers_scaled_up": scale,
        "notes": [note, f"compilations: ours {count}, jax_solo {solo_programs} for those members"],
    }


def cost(data: Data, batch: int, router: Any, **size: int) -> tuple[float, float | None]:
    """Seconds per epoch and member: of ours, and of PyTorch for one member."""
    part = Data(*(array[: size["rows"], : size["width"]].copy() for array in data))
    config = TrainConfig(num_heads=size["heads"], batch_size=batch, epochs=1, router=router)
    spec = ModelSpec(size["width"], size["heads"], router)
    cases = [Case(spec, replace(config, select="last"), seed) for seed in range(size["members"])]
    ways = {"ours": together(part.rows("float32"), cases)}
    if size["members"] == 1:
        for name, fused in (("eager", None), ("fused", True)):
            ways[name] = TorchLoop(part, cases[0], fused=fused)
    alternate(ways, 1)
    timed = against(alternate(ways, 3))
    torch = min((peer["seconds"] for peer in timed["peers"].values()), default=None)
    return timed["ours_s"] / size["members"], torch


def scaling(options: Any, file: Path) -> list[dict[str, Any]]:
    """Measure every panel and draw them."""
    data = make_data(max(SCALING["rows"]), max(SCALING["width"]))
    known: dict[tuple[Any, ...], tuple[float, float | None]] = {}
    found = []
    for router in options.routers:
        for axis, values in SCALING.items():
            for value in values:
                size = SCALING_BASE | {axis: value}
                key = (router, *size.values())
                if key not in known:
                    known[key] = cost(data, options.batch, router, **size)
                mine, torch = known[key]
                point = {"axis": axis, "value": value, "router": router}
                found.append(point | {"ours_s": mine, "torch_s": torch})
    draw(found, options, file)
    return found


def draw(points: list[dict[str, Any]], options: Any, file: Path) -> None:
    """Four small log-log panels with one scale of seconds."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    panels = figure.subplots(1, len(SCALING), sharey=True)
    for panel, (axis, values) in zip(panels, SCALING.items(), strict=True):
        for router in options.routers:
            mine = [p for p in points if p["axis"] == axis and p["router"] == router]
            for key, style in (("ours_s", "o-"), ("torch_s", "s--")):
                shown = [(p["value"], p[key]) for p in mine if p[key] is not None]
                if axis == "members" and key == "torch_s":  # a loop: each member costs the same
                    shown = [(value, shown[0][1]) for value in values]
                name = f"{'ours' if key == 'ours_s' else 'PyTorch eager'}, {router} router"
                panel.plot(*zip(*shown, strict=True), style, color=COLOURS[router], label=name)
        panel.set(xscale="log", yscale="log", xlabel=AXES[axis])
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.set_yticks(SECONDS, [f"{value:g}" for value in SECONDS])
        panel.tick_params(labelsize=8)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    costs = [p[key] for p in points for key in ("ours_s", "torch_s") if p[key] is not None]
    panels[0].set_ylim(min(costs) / 1.5, max(costs) * 1.5)
    panels[0].set_ylabel("seconds per epoch and member")
    base = "N = {rows:,}, d = {width:,}, K = {heads}, {members} member".format(**SCALING_BASE)
    figure.suptitle(f"One epoch, batch {options.batch}; else {base}", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(file)


def main() -> None:
    """Run the sweeps, or the scaling."""
    made = parser("A sweep in one program beside loops over its members.")
    made.add_argument("--members", type=int, default=16)
    made.add_argument("--peer_members", type=int)
    made.add_argument("--quick_gate", action="store_true", help="compare only what peers run")
    made.add_argument("--precision", choices=PRECISIONS, default="float32")
    made.add_argument("--scaling", type=Path, help="draw the growth of costs instead")
    options = begin(made)
    most = options.members if options.rounds == 1 else 4
    options.peer_members = min(options.peer_members or most, options.members)
    facts = machine()
    if options.scaling:
        return finish("scaling", options, facts, scaling(options, options.scaling))
    data = make_data(options.rows, options.width)
    rates: dict[str, float] = {}
    results = []
    for router in options.routers:
        results.append(measure(options, data, router, rates))
        show(results[-1], options)
    finish("sweep", options, facts | {"rates": rates}, results)


if __name__ == "__main__":
    main()
