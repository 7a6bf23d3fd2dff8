"""Reading the feature store beside other files with the same vectors, page cache warm.

    python benchmarks/store.py [--gib 1] [--width 3072] [--shards 1] [--rounds 5] [--json]

store-sequential   everything into memory, opening the file included. Ours is ``read``. Every way
                   fills fresh memory, whose page faults cost about as much as the copy; ``reused``
                   says what an array that is filled again gives, for ours and for ``readinto``.
                   gzip runs on an eighth of the rows and is scaled up.
store-random-N     minibatches of N random rows, files open. Seconds are per minibatch. Ours is
                   ``vectors``; ``gather`` is ours without a memory map. The fast ways see 16,384
                   rows per round, more than the processor caches hold, the slow ones the first
                   minibatches of the same (``minibatches``).

The vectors are random finite bfloat16 bits, uint16 for the peers. Every way must first give the
same vectors. Ways take turns, in opposite order in every other round; seconds are medians. The
limits are one thread's ``readinto`` and a gather from an array in memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, LOGICAL, Identity
from micro_rm.cache.writer import adopt_shards, open_manifest, shard_path, write_shard

GZIP_SHARE = 8
RANDOM_ROWS = 16_384
SLOW = {"h5py_chunked": 2, "h5py_contiguous": 16, "h5py_rows": 16, "safetensors_rows": 16}
Way = Callable[[], np.ndarray]


def make_vectors(rows: int, width: int) -> np.ndarray:
    """Random finite bfloat16 as bits (rows, width)."""
    bits = np.random.default_rng(0).integers(0, 1 << 16, (rows, width), np.uint16)
    bits[(bits & 0x7F80) == 0x7F80] ^= 0x4000  # infinity and NaN have all bits of the exponent
    return bits


def write_files(directory: Path, bits: np.ndarray, shards: int) -> None:
    """The same vectors as our store and in the formats of the peers."""
    fields: dict[str, Any] = {name: "benchmark" for name in Identity.__dataclass_fields__}
    identity = Identity(**(fields | {"dtype": "bfloat16", "max_length": 0}))
    manifest = open_manifest(directory / "store", identity, bits.shape[1])
    keys = np.arange(len(bits)).astype(KEY_DTYPE)
    for number, part in enumerate(np.array_split(np.arange(len(bits)), shards)):
        rows = slice(part[0], part[-1] + 1)
        path = shard_path(directory / "store", number)
        vectors = bits[rows].view(LOGICAL["bfloat16"])
        write_shard(path, identity, "benchmark", keys[rows], vectors)
    adopt_shards(directory / "store", manifest)
    few = bits[: len(bits) // GZIP_SHARE]
    for name, content, options in (
        ("contiguous", bits, {}),
        ("chunked", bits, {"chunks": True}),
        ("gzip", few, {"compression": "gzip", "compression_opts": 1, "shuffle": True}),
    ):
        with h5py.File(directory / f"{name}.h5", "w") as file:
            file.create_dataset("vectors", data=content, **options)
    np.save(directory / "vectors.npy", bits)
    save_file({"vectors": bits}, directory / "vectors.safetensors")


def raw_readinto(path: Path, out: np.ndarray) -> np.ndarray:
    """As many bytes as ``out`` takes, from the end of a file."""
    view = out.data.cast("B")
    with path.open("rb", buffering=0) as file:
        file.seek(-len(view), os.SEEK_END)
        done = 0
        while done < len(view):
            done += file.readinto(view[done:]) or 0
    return out


def read_h5(path: Path) -> np.ndarray:
    """Everything of an HDF5 file."""
    with h5py.File(path) as file:
        return file["vectors"][:]  # pyright: ignore


def medians(
    ways: dict[str, Way],
    rounds: int,
    shown: Callable[[str], None],
    before: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds per way; the ways take turns, ``before`` is called ahead of each, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            shown(f"round {turn + 1} of {rounds}: {name}")
            before()
            start = time.perf_counter()
            found = ways[name]()
            seconds[name].append(time.perf_counter() - start)
            del found  # giving memory back is not timed
    return {name: statistics.median(values) for name, values in seconds.items()}


def part(name: str, equal: bool, ours: float, peers: dict[str, float], **more: Any) -> dict:
    """The record of one part."""
    found = {peer: {"seconds": value, "ratio": value / ours} for peer, value in peers.items()}
    return {"name": name, "equal": equal, "ours_s": ours, "peers": found} | more


def limit(what: str, seconds: float, ours: float) -> dict[str, Any]:
    """The record of a limit; a fraction above 1 means that ours is faster."""
    return {"what": what, "seconds": seconds, "fraction": seconds / ours}


def sequential(
    directory: Path, bits: np.ndarray, rounds: int, shown: Callable[[str], None]
) -> dict[str, Any]:
    """Everything into memory."""
    rows, npy = len(bits), directory / "vectors.npy"
    few = rows // GZIP_SHARE
    # Read into in turns by two ways; touched once, before the clock runs.
    reused = np.zeros_like(bits)

    def ours(out: np.ndarray | None = None) -> np.ndarray:
        return FeatureStore(directory / "store").read(0, rows, out).view(np.uint16)

    ways: dict[str, Way] = {
        "ours": ours,
        "h5py_contiguous": lambda: read_h5(directory / "contiguous.h5"),
        "h5py_chunked": lambda: read_h5(directory / "chunked.h5"),
        "h5py_gzip": lambda: read_h5(directory / "gzip.h5"),
        "numpy_mmap_copy": lambda: np.array(np.load(npy, mmap_mode="r")),
        "numpy_load": lambda: np.load(npy),
        "safetensors": lambda: load_file(directory / "vectors.safetensors")["vectors"],
        "readinto": lambda: raw_readinto(npy, np.empty_like(bits)),
        "ours_reused": lambda: ours(reused.view(LOGICAL["bfloat16"])),
        "readinto_reused": lambda: raw_readinto(npy, reused),
    }
    equal = True
    for name, way in ways.items():  # also warms the page cache
        shown(f"equality: {name}")
        reused.fill(0)
        equal &= np.array_equal(way(), bits[:few] if name == "h5py_gzip" else bits)
    # A virtual machine hands free memory back to its host within seconds, and to get it again costs
    # more than the read: whoever came after a pause would pay. So all find as much just freed.
    seconds = medians(ways, rounds, shown, lambda: np.ones_like(bits))
    seconds["h5py_gzip"] *= rows / few
    mine, raw, mine_reused, raw_reused = (
        seconds.pop(name) for name in ("ours", "readinto", "ours_reused", "readinto_reused")
    )
    return part(
        "store-sequential",
        equal,
        mine,
        seconds,
        limit=limit("readinto of one thread into fresh memory", raw, mine),
        reused={
            "ours_s": mine_reused,
            "limit": limit("readinto of one thread into touched memory", raw_reused, mine_reused),
        },
        gb_per_second=bits.nbytes / mine / 1e9,
        scaled_up={"h5py_gzip": rows / few},
    )


def minibatches(
    directory: Path, bits: np.ndarray, size: int, rounds: int, shown: Callable[[str], None]
) -> dict[str, Any]:
    """Minibatches of random rows."""
    random = np.random.default_rng(size)
    batches = [random.integers(0, len(bits), size) for _ in range(max(1, RANDOM_ROWS // size))]
    with ExitStack() as stack:
        store = FeatureStore(directory / "store")
        mapped = np.load(directory / "vectors.npy", mmap_mode="r")
        contiguous, chunked = (
            stack.enter_context(h5py.File(directory / f"{name}.h5"))["vectors"]
            for name in ("contiguous", "chunked")
        )
        tensors = stack.enter_context(
            safetensors.safe_open(directory / "vectors.safetensors", "np")
        )
        piece = tensors.get_slice("vectors")

        def fancy(data: Any, rows: np.ndarray) -> np.ndarray:
            # h5py wants them sorted and without repeats.
            unique, place = np.unique(rows, return_inverse=True)
            return data[unique][place]

        def rows_of(data: Any, rows: np.ndarray) -> np.ndarray:
            return np.concatenate([data[row : row + 1] for row in rows.tolist()])

        gathers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "ours": lambda rows: store.vectors(rows).view(np.uint16),
            "gather": lambda rows: store.gather(rows).view(np.uint16),
            "h5py_chunked": lambda rows: fancy(chunked, rows),
            "h5py_contiguous": lambda rows: fancy(contiguous, rows),
            "h5py_rows": lambda rows: np.stack([contiguous[row] for row in rows.tolist()]),  # pyright: ignore
            "safetensors_rows": lambda rows: rows_of(piece, rows),
            "numpy_mmap": lambda rows: mapped[rows],
            "memory_indexing": lambda rows: bits[rows],
            "memory": lambda rows: np.take(bits, rows, axis=0),
        }
        share = {name: min(SLOW.get(name, len(batches)), len(batches)) for name in gathers}

        def all_of(name: str) -> np.ndarray:
            found = np.empty(0)
            for rows in batches[: share[name]]:
                found = gathers[name](rows)
            return found

        equal = True
        for name, gather in gathers.items():
            shown(f"equality: {name}, {size} rows")
            for rows in batches[: share[name]]:
                equal &= np.array_equal(gather(rows), bits[rows])
        seconds = medians({name: lambda n=name: all_of(n) for name in gathers}, rounds, shown)
    seconds = {name: value / share[name] for name, value in seconds.items()}
    mine, gathered, memory = (seconds.pop(name) for name in ("ours", "gather", "memory"))
    return part(
        f"store-random-{size}",
        equal,
        mine,
        seconds,
        limit=limit("np.take from an array in memory", memory, mine),
        gather={
            "ours_s": gathered,
            "peers": {name: {"ratio": value / gathered} for name, value in seconds.items()},
            "limit": limit("np.take from an array in memory", memory, gathered),
        },
        gb_per_second=size * bits[0].nbytes / mine / 1e9,
        minibatches=share,
    )


def show(found: dict[str, Any], console: Console) -> None:
    """One part as a table."""
    unit, scale = ("s", 1) if found["name"].endswith("sequential") else ("ms", 1e3)
    note = "" if found["equal"] else " - NOT EQUAL"
    table = Table(title=f"{found['name']}: {found['gb_per_second']:.1f} GB/s{note}")
    for heading in ("way", unit, "times ours"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    table.add_row("ours", f"{found['ours_s'] * scale:.3f}", "1")
    for name in ("gather", "reused"):
        if name in found:
            seconds = found[name]["ours_s"]
            times = f"{seconds / found['ours_s']:.2f}"
            table.add_row(f"ours, {name}", f"{seconds * scale:.3f}", times)
    for name, peer in found["peers"].items():
        table.add_row(name, f"{peer['seconds'] * scale:.3f}", f"{peer['ratio']:.2f}")
    bound = found["limit"]
    table.add_section()
    table.add_row(
        bound["what"], f"{bound['seconds'] * scale:.3f}", f"ours reaches {bound['fraction']:.0%}"
    )
    if "reused" in found:
        bound = found["reused"]["limit"]
        times = f"ours, reused: {bound['fraction']:.0%}"
        table.add_row(bound["what"], f"{bound['seconds'] * scale:.3f}", times)
    console.print(table)


def main() -> None:
    """Write the files, run both parts and print them."""
    parser = argparse.ArgumentParser(description="The feature store beside other files.")
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=3072)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the last line only")
    parser.add_argument("--out", type=Path, help="also write the last line to this file")
    options = parser.parse_args()
    console = Console()
    rows = int(options.gib * 2**30) // (2 * options.width)

    def shown(step: str) -> None:  # a line and no spinner: its thread would disturb the clock
        if not options.json:
            print(step, file=sys.stderr)

    shown("writing")
    with tempfile.TemporaryDirectory() as name:
        directory, bits = Path(name), make_vectors(rows, options.width)
        write_files(directory, bits, options.shards)
        parts = [sequential(directory, bits, options.rounds, shown)]
        for size in (64, 256):
            parts.append(minibatches(directory, bits, size, options.rounds, shown))
    result = {
        "name": "store",
        "equal": all(found["equal"] for found in parts),
        "parts": parts,
        "rows": rows,
        "settings": {key: value for key, value in vars(options).items() if key != "out"},
        "machine": {"cores": os.cpu_count(), "numpy": np.__version__, "h5py": h5py.__version__},
    }
    line = json.dumps(result)
    if not options.json:
        for found in parts:
            show(found, console)
    if options.out:
        options.out.write_text(line + "\n", "utf-8")
    print(line)


if __name__ == "__main__":
    main()
