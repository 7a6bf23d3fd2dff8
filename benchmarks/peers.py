"""The data, the loops of others, and the clocks that heads.py and sweep.py share.

Every loop starts from the same weights, reads the same rows in the same order, minimises the same
objective with the same optimiser and schedule, and returns the mean loss of every epoch.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset

from micro_rm.configs.train import TrainConfig
from micro_rm.heads.epochs import shuffled_batches
from micro_rm.heads.model import ModelSpec, init
from micro_rm.heads.rows import Rows
from micro_rm.heads.training import fit

SIZES = {"rows": 23482, "width": 3072, "heads": 10, "batch": 256, "rounds": 5}
SMALL = {"rows": 2000, "width": 256, "heads": 10, "batch": 256, "rounds": 3}
PRECISIONS = ("float32", "bfloat16_split", "bfloat16")
# Largest difference between loss curves that count as equal.
TOLERANCE = {"float32": 1e-5, "bfloat16_split": 1e-4, "bfloat16": 1e-4}
TASTES = 3  # planted reward vectors, which the prompt decides between
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_tile")
PACKAGES = ("jax", "jaxlib", "optax", "torch", "scikit-learn", "numpy")
ORDER_KEY = 1
# Where JAX computes, PyTorch does too.
DEVICE = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
BUSY, QUIET = "used_by_others", 0.05

Run = Callable[[], np.ndarray]
Way = Callable[[], Run]


class Data(NamedTuple):
    """Chosen minus rejected, and the prompt: float32 (N, D), every number exact in 16 bits."""

    delta: np.ndarray
    prompt: np.ndarray

    def rows(self, precision: str) -> Rows:
        """For ours, stored in the width of the precision."""
        dtype = jnp.float32 if precision == "float32" else jnp.bfloat16
        return Rows(*(jnp.asarray(array).astype(dtype) for array in self))

    def part(self, count: int) -> Data:
        """The first rows."""
        return Data(self.delta[:count], self.prompt[:count])


@dataclass(frozen=True)
class Case:
    """A configuration, its shape and its seed."""

    spec: ModelSpec
    config: TrainConfig
    seed: int = 0

    @property
    def params(self) -> dict[str, Any]:
        """The initial weights that every way starts from."""
        return init(self.spec, jax.random.key(self.seed))

    def orders(self, count: int) -> list[np.ndarray]:
        """Row numbers of every epoch, as ``heads.training.run`` draws them."""
        key, size = jax.random.key(ORDER_KEY), self.config.batch_size
        keys = [jax.random.fold_in(key, epoch) for epoch in range(self.config.epochs)]
        drawn = [shuffled_batches(key, count, size).rows for key in keys]
        return [np.asarray(rows, np.int64).reshape(-1)[:count] for rows in drawn]

    def shares(self, count: int) -> list[float]:
        """The learning rate of every step as a share of its peak, and a last 0."""
        size, epochs, warmup = self.config.batch_size, self.config.epochs, self.config.warmup
        steps = epochs * -(-count // size)
        rising = min(int(np.ceil(warmup * steps)), steps - 1)
        share = optax.warmup_cosine_decay_schedule(0.0 if rising else 1.0, 1.0, rising, steps)
        return np.asarray(share(np.arange(steps + 1))).tolist()


def make_data(rows: int, width: int) -> Data:
    """Vectors with a decaying spectrum; the prompt says which of three tastes judged the pair."""
    random = np.random.default_rng(0)
    scale = np.geomspace(1.0, 0.1, width, dtype=np.float32)

    def draw(count: int) -> np.ndarray:
        drawn = random.standard_normal((count, width), np.float32) * scale
        return torch.from_numpy(drawn).bfloat16().float().numpy()

    delta, prompt = draw(rows), draw(rows)
    tastes, topics = (random.standard_normal((TASTES, width), np.float32) for _ in range(2))
    judge = np.argmax(prompt @ topics.T, axis=1)
    margin = (delta @ tastes.T)[np.arange(rows), judge]
    noisy = 3 * margin / margin.std() + random.logistic(size=rows)
    delta[noisy < 0] *= -1
    return Data(delta, prompt)


class TorchModel(torch.nn.Module):
    """Heads and router with given weights; called, the objective of a batch."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        params, spec = case.params, case.spec
        self.entropy_weight = case.config.entropy_weight
        self.heads = _linear(params["heads"])
        self.router: torch.nn.Module = _linear(params["router"]["output"])
        if spec.router == "mlp":
            hidden = _linear(params["router"]["hidden"])
            self.router = torch.nn.Sequential(hidden, torch.nn.ReLU(), self.router)

    def forward(self, delta: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """The mean over the batch."""
        log_weight = torch.log_softmax(self.router(prompt).float(), dim=-1)
        log_sigmoid = torch.nn.functional.logsigmoid(self.heads(delta).float())
        nll = -torch.logsumexp(log_weight + log_sigmoid, dim=-1)
        return (nll + self.entropy_weight * (log_weight.exp() * log_weight).sum(-1)).mean()


def _linear(layer: dict[str, Any]) -> torch.nn.Linear:
    kernel = np.array(layer["kernel"]).T
    linear = torch.nn.Linear(kernel.shape[1], kernel.shape[0], bias="bias" in layer)
    linear.weight.data = torch.from_numpy(np.ascontiguousarray(kernel))
    if "bias" in layer:
        linear.bias.data = torch.from_numpy(np.array(layer["bias"]))
    return linear


@dataclass
class TorchLoop:
    """An eager loop with the features in memory, or with a DataLoader over the rows.

    ``autocast`` holds features in bfloat16, which halves what is read, and computes products in it.
    """

    data: Data
    case: Case
    fused: bool | None = None
    autocast: bool = False
    compiled: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        dtype = torch.bfloat16 if self.autocast else torch.float32
        # Workers read from host memory, the others from the device's.
        place = DEVICE if self.workers is None else torch.device("cpu")
        self.tensors = [torch.from_numpy(array).to(place, dtype) for array in self.data]
        orders = self.case.orders(len(self.data.delta))
        self.epochs: list[Iterable[Any]]
        if self.workers is None:
            self.epochs = [_Gather(self.tensors, order, self.size) for order in orders]
        else:
            self.epochs = [self._loader(order) for order in orders]
        self.shares = self.case.shares(len(self.data.delta))

    @property
    def size(self) -> int:
        """Rows per step."""
        return self.case.config.batch_size

    def _loader(self, order: np.ndarray) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(*self.tensors),
            batch_size=self.size,
            sampler=order.tolist(),
            num_workers=self.workers or 0,
            pin_memory=DEVICE.type == "cuda",
            persistent_workers=bool(self.workers),
        )

    def __call__(self) -> Run:
        """Fresh weights and optimiser, ready to run."""
        config, model = self.case.config, TorchModel(self.case).to(DEVICE)
        rate, decay = config.learning_rate, config.weight_decay
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=rate, weight_decay=decay, fused=self.fused
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.shares.__getitem__)
        objective = torch.compile(model) if self.compiled else model
        return partial(self._run, model, objective, optimiser, schedule)

    def _run(self, model: torch.nn.Module, objective: Any, optimiser: Any, schedule: Any) -> Any:
        parameters, clip = list(model.parameters()), self.case.config.clip
        means = []
        for batches in self.epochs:
            losses = []
            for delta, prompt in batches:
                here = [part.to(DEVICE, non_blocking=True) for part in (delta, prompt)]
                with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.autocast):
                    loss = objective(*here)
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, clip)
                optimiser.step()
                schedule.step()
                losses.append(loss.detach())
            means.append(torch.stack(losses).mean().item())
        return np.array(means)


@dataclass
class _Gather:
    tensors: list[torch.Tensor]
    order: np.ndarray
    size: int

    def __iter__(self) -> Any:
        order = torch.from_numpy(self.order).to(self.tensors[0].device)
        for rows in order.split(self.size):
            yield [tensor.index_select(0, rows) for tensor in self.tensors]


def ours(rows: Rows, case: Case) -> Way:
    """``fit``, the features in memory."""
    none = jax.tree.map(lambda array: array[:0], rows)

    def prepare() -> Run:
        params = jax.block_until_ready(case.params)
        return partial(run, params)

    def run(params: Any) -> np.ndarray:
        found = fit(case.spec, params, rows, none, case.config, jax.random.key(ORDER_KEY))
        return np.asarray(jax.block_until_ready(found)[1].objective)

    return prepare


def seconds_of(way: Way) -> tuple[float, np.ndarray]:
    """Wall time of a run, its preparation left out, and what it returns."""
    run = way()
    gc.collect()
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def alternate(ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of every way in every round, the ways taking turns.

    Threads of OpenMP wait for each other by spinning: beside other jobs the peers slow down far
    more than ours, so what others use is noted before every round, as if it were a way.
    """
    seconds: dict[str, list[float]] = {name: [] for name in [BUSY, *ways]}
    for _ in range(rounds):
        seconds[BUSY].append(used_by_others())
        for name, way in ways.items():
            seconds[name].append(seconds_of(way)[0])
    return seconds


def used_by_others() -> float:
    """Share of all cores in use while this process sleeps."""
    before = _ticks()
    time.sleep(0.3)
    idle, total = _ticks() - before
    return float(1 - idle / total)


def _ticks() -> np.ndarray:
    numbers = np.array(Path("/proc/stat").read_text().split()[1:9], float)
    return np.array([numbers[3] + numbers[4], numbers.sum()])


def against(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """The medians, and every peer's over that of "ours"."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    mine, busy = median.pop("ours"), max(seconds[BUSY])
    del median[BUSY]
    peers = {name: {"seconds": value, "ratio": value / mine} for name, value in median.items()}
    spread = {name: [min(values), max(values)] for name, values in seconds.items()}
    return {"ours_s": mine, "peers": peers, "spread": spread, "used_by_others": busy}


def rate_of(amount: float, call: Callable[[], Any]) -> float:
    """``amount`` over the shortest of many calls."""
    jax.block_until_ready(call())
    best, end = np.inf, time.perf_counter() + 0.4
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - start)
    return amount / best


def product_rate(left: tuple[int, int], right: tuple[int, int], precision: str) -> float:
    """FLOP/s of ``left @ right.T``; 16-bit operands are summed in 32 bits.

    On CPUs with XLA. On a GPU with PyTorch's own kernels, ten calls at a time, because XLA tries
    many kernels before the first call.
    """
    if DEVICE.type == "cuda":
        kind = torch.float32 if precision == "float32" else torch.bfloat16
        one, other = (torch.randn(shape, device=DEVICE, dtype=kind) for shape in (left, right))

        def ten() -> None:
            for _ in range(10):
                torch.mm(one, other.T)
            torch.cuda.synchronize()

        return rate_of(20 * left[0] * left[1] * right[0], ten)
    dtype = jnp.float32 if precision == "float32" else jnp.bfloat16
    arrays = [jnp.ones(shape, dtype) for shape in (left, right)]
    dot = jax.jit(lambda a, b: jnp.dot(a, b.T, preferred_element_type=jnp.float32))
    return rate_of(2 * left[0] * left[1] * right[0], lambda: dot(*arrays))


def matrix_rate(precision: str) -> float:
    """FLOP/s of the best of some large products."""
    shapes = [(2048, 3072, 2048), (1024, 1024, 1024), (4096, 1024, 512)]
    return max(product_rate((n, d), (m, d), precision) for n, d, m in shapes)


def bandwidth() -> float:
    """Bytes per second of summing 1 GiB, by whoever does it faster."""
    here = torch.ones(2**28, device=DEVICE)
    there = jnp.ones(2**28)
    add = jax.jit(jnp.sum)
    return max(rate_of(2**30, lambda: here.sum().item()), rate_of(2**30, lambda: add(there)))


def note_rates(rates: dict[str, float], precision: str) -> None:
    """Measure the limits again and keep the best that this machine has shown."""
    name = "float32" if precision == "float32" else "bfloat16"
    rates[name] = max(rates.get(name, 0.0), matrix_rate(name))
    rates["bytes"] = max(rates.get("bytes", 0.0), bandwidth())


def columns_of(spec: ModelSpec) -> tuple[int, int]:
    """Columns of the two matrices that the features are multiplied with."""
    return spec.num_heads, spec.router_units if spec.router == "mlp" else spec.num_heads


def bound(
    specs: list[ModelSpec], rows: int, mine: float, rates: dict[str, float]
) -> dict[str, Any]:
    """The least that an epoch of some members takes at this machine's rates, beside our time.

    A product and its gradient are four operations per row and weight; the features are read once.
    """
    precision, width = specs[0].precision, specs[0].width
    flops = 4 * rows * width * sum(sum(columns_of(spec)) for spec in specs)
    passes = 2 if precision == "bfloat16_split" else 1
    rate = rates["float32" if precision == "float32" else "bfloat16"]
    read = 2 * rows * width * (4 if precision == "float32" else 2)
    products, memory = flops * passes / rate, read / rates["bytes"]
    what = f"products at {rate / 1e9:.0f} GFLOP/s"
    if memory > products:
        what = f"reading the features at {rates['bytes'] / 1e9:.1f} GB/s"
    least = max(products, memory)
    return {
        "limit": {"what": what, "seconds": least, "fraction": least / mine},
        "flops": flops,
        "passes": passes,
        "gflops_per_second": flops / mine / 1e9,
        "bytes": read,
        "products": {"seconds": products, "fraction": products / mine},
        "memory": {"seconds": memory, "fraction": memory / mine},
    }


def machine() -> dict[str, Any]:
    """Versions, cores and what the processor can do."""
    words = set(Path("/proc/cpuinfo").read_text().split()) if os.name == "posix" else set()
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in words],
        "torch_device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
        "jax_device": jax.devices()[0].device_kind,
        "load_before": os.getloadavg()[0],
    }


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """A result as a table."""
    if options.json:
        return
    table = Table(title=f"{result['name']}: {options.rows:,} x {options.width:,}")
    for column in ("", "seconds", "over ours", "difference"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("ours", f"{result['ours_s']:.3f}", "", "")
    for name, peer in result["peers"].items():
        error = result["largest_difference"].get(name)
        apart = "" if error is None else f"{error:.1e}"
        star = " *" if name == result["peer"] else ""
        table.add_row(name + star, f"{peer['seconds']:.3f}", f"{peer['ratio']:.2f}", apart)
    Console().print(table)
    limit = result["limit"]
    if result["used_by_others"] > QUIET:
        print(f"OTHER JOBS used {result['used_by_others']:.0%} of the cores: no ratio holds")
    print(
        f"equal: {result['equal']}, largest difference "
        f"{max(result['largest_difference'].values()):.1e}; compiled in {result['compile_s']:.1f} s"
    )
    print(f"limit {limit['seconds']:.3f} s, {limit['fraction']:.0%} reached: {limit['what']}")
    for name in ("products", "products_of_these_shapes", "memory"):
        if name in result:
            part = result[name]
            words = name.replace("_", " ")
            print(f"    {words}: {part['seconds']:.3f} s, {part['fraction']:.0%} of our time")
    print(*result.get("notes", []), sep="\n", end="\n" if result.get("notes") else "")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    for name in SIZES:
        made.add_argument(f"--{name}", type=int)
    made.add_argument("--small", action="store_true", help=f"by default {SMALL}")
    made.add_argument("--router", choices=["mlp", "linear", "both"], default="both")
    made.add_argument("--json", action="store_true", help="the last line only")
    made.add_argument("--out", type=Path, help="file for the last line")
    return made


def begin(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parsed options with sizes filled in; both libraries told what the pipeline tells them."""
    options = made.parse_args()
    for name, value in (SMALL if options.small else SIZES).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.routers = ["mlp", "linear"] if options.router == "both" else [options.router]
    jax.config.update("jax_default_matmul_precision", "float32")
    torch.set_num_threads(os.cpu_count() or 1)
    # Workers of a DataLoader are forked and never touch JAX.
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    return options


def finish(name: str, options: argparse.Namespace, facts: Any, results: list[Any]) -> None:
    """The last line, and the file of it."""
    settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
    line = json.dumps({"name": name, "results": results, "settings": settings, "machine": facts})
    if options.out:
        options.out.write_text(line + "\n")
    print(line)
