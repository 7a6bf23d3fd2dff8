"""Training from a cache that is larger than the memory allowed: resident memory, time and curves.

    python benchmarks/streaming.py [--pairs 40000] [--width 3072] [--share 0.5] [--json]

A store of random bfloat16 vectors, three per pair, is written to a temporary directory. The same
training (micro_stage1, K = 10, batch 256) runs in three processes: on a few rows, which tells what
Python, JAX and the compiled program take; on all rows in memory; and on all rows with
train.memory_gib at ``share`` of the store. What a process holds beyond the first is its memory for
features. The last line is JSON; memory in GiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

GIB = 2**30
FEW = 512


def write_store(path: Path, pairs: int, width: int) -> None:
    """A store with the vectors of every pair and a pair table of training rows."""
    from micro_rm.cache.pairs import TEXT_COLUMNS, PairTable, write_pairs
    from micro_rm.cache.schema import KEY_DTYPE, Identity
    from micro_rm.cache.writer import adopt_shards, open_manifest, shard_path, write_shard

    names = ("backbone", "revision", "weights", "tokenizer", "template", "probe", "bos")
    identity = Identity(
        **dict.fromkeys(names, "benchmark"),
        pooling="last",
        layer="last_hidden_state",
        dtype="bfloat16",
        max_length=4096,
    )
    manifest = open_manifest(path, identity, width)
    rng = np.random.default_rng(0)
    per_shard, total = 20_000, 3 * pairs
    for number, start in enumerate(range(0, total, per_shard)):
        rows = min(per_shard, total - start)
        vectors = rng.standard_normal((rows, width), np.float32).astype(ml_dtypes.bfloat16)
        numbers = np.arange(start, start + rows, dtype=">u8")
        keys = np.zeros((rows, 2), ">u8")
        keys[:, 1] = numbers + 1
        write_shard(
            shard_path(path, number), identity, "", keys.view(KEY_DTYPE).reshape(-1), vectors
        )
    adopt_shards(path, manifest)
    for name, count in (("all", pairs), ("few", FEW)):
        text = {column: [""] * count for column in TEXT_COLUMNS}
        text |= {
            "pair_id": [str(number) for number in range(count)],
            "prompt_id": [sha256(b"%d" % number).hexdigest() for number in range(count)],
            "split": ["train"] * count,
        }
        order = rng.permutation(pairs)[:count]
        places = {role: 3 * order + n for n, role in enumerate(("prompt", "chosen", "rejected"))}
        table = PairTable(
            name=name,
            request="benchmark",
            settings={"backbone": {}},
            rows={f"plain/{role}": rows for role, rows in places.items()},
            text=text,
            source_row=np.arange(count),
            pool=np.zeros(count, bool),
            margin=np.zeros(count, np.float32),
            tokens={role: np.ones(count, np.int32) for role in ("chosen", "rejected")},
            account={},
        )
        write_pairs(path, table)


def train(store: str, name: str, memory: float | None) -> dict[str, Any]:
    """Train in this process; its curve, seconds and peak memory."""
    from micro_rm.cache.pairs import read_pairs
    from micro_rm.cache.reader import FeatureStore
    from micro_rm.configs.schema import Config
    from micro_rm.configs.train import TrainConfig
    from micro_rm.heads.features import Features
    from micro_rm.heads.methods import load_method
    from micro_rm.heads.run_data import RunData

    settings = TrainConfig(epochs=2, batch_size=256, memory_gib=memory)
    features = Features(FeatureStore(store), read_pairs(Path(store), name))
    problem = RunData(Config(train=settings), features).problem(adapt=False)
    start = time.perf_counter()
    trained = load_method("micro_stage1").fit(problem, {})
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "objective": trained.curves["objective"].tolist(),
        "validation_nll": trained.curves["validation_nll"].tolist(),
    }


def in_process(store: Path, name: str, memory: float | None) -> dict[str, Any]:
    """``train`` in a process of its own."""
    words = [sys.executable, __file__, "--worker", str(store), name, str(memory)]
    out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    """Write, train three times, compare."""
    parser = argparse.ArgumentParser(description="Training from a cache that does not fit.")
    parser.add_argument("--pairs", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=3)
    options = parser.parse_args()
    if options.worker:
        store, name, memory = options.worker
        print(json.dumps(train(store, name, None if memory == "None" else float(memory))))
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        write_store(store, options.pairs, options.width)
        size = 3 * options.pairs * options.width * 2 / GIB
        allowed = options.share * size
        runs = {
            "few rows": in_process(store, "few", None),
            "in memory": in_process(store, "all", None),
            "streamed": in_process(store, "all", allowed),
        }
    base = runs["few rows"]["peak_gib"]
    held, streamed = runs["in memory"], runs["streamed"]
    difference = max(
        float(np.max(np.abs(np.subtract(held[curve], streamed[curve]))))
        for curve in ("objective", "validation_nll")
    )
    result = {
        "name": "streaming",
        "store_gib": size,
        "allowed_gib": allowed,
        "features_gib": {name: run["peak_gib"] - base for name, run in runs.items()},
        "process_gib": {name: run["peak_gib"] for name, run in runs.items()},
        "seconds": {name: run["seconds"] for name, run in runs.items()},
        "largest_curve_difference": difference,
        "equal": difference < 1e-5,
        "within_bound": streamed["peak_gib"] - base <= allowed,
    }
    if not options.json:
        for name, run in runs.items():
            more = run["peak_gib"] - base
            print(f"{name:<10} {run['seconds']:7.2f} s   {more:6.2f} GiB beyond the first")
        print(f"store {size:.2f} GiB, allowed {allowed:.2f} GiB, curves differ by {difference:.1e}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
