"""Manifests, settings and HDF5 headers full of nonsense: an error with a message, or no harm."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from micro_rm.cache.manifest import checksum_of
from micro_rm.embed.sources.account import Account

from .corruption import everything
from .harness import Tally, World, attempt, explained
from .malformed import Line, check_file, check_rated_file, files, rated_files

HEADER = 2048
# What a reader may use beside what it has already, and how long it may take.
MEMORY, SECONDS = 6 << 30, 30
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(["../../escape.h5", "/etc/passwd", "000000.h5", "\x00", "9" * 400])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
KEYS = ("run", "store", "dir", "train", "num_heads", "data", "embed", "bin_tokens", "methods", "x")
YAMLS = st.recursive(
    SCALARS
    | st.sampled_from(["!!python/object/apply:os.system [true]", "&a [*a]", "${oc.env:HOME}"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
)


def attack_manifests(world: World, rounds: int, seed: int) -> Tally:
    """Replace values anywhere in a manifest, drop keys and add some; then read the store."""
    tally = Tally("fuzzed manifests")
    store = world.base / "fuzzed"
    shutil.copytree(world.whole, store)
    path = store / "manifest.json"
    whole = path.read_text()
    read = everything(store)

    def trial(data: st.DataObject) -> None:
        raw = json.loads(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            _edit(raw, data)
        # Its own checksum is made right, or else nothing behind it would be reached.
        if isinstance(raw, dict) and data.draw(st.integers(0, 9)):
            raw["checksum"] = checksum_of(raw)
        path.write_text(json.dumps(raw))
        _judge(read, world, tally, json.dumps(raw)[:300])

    _run(trial, st.data(), rounds, seed)
    shutil.rmtree(store)
    return tally


def attack_settings(world: World, rounds: int, seed: int) -> Tally:
    """Configuration files of any shape, and bytes that are no YAML at all."""
    tally = Tally("fuzzed YAML")
    path = world.base / "fuzzed.yaml"

    def trial(content: Any) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        _judge(parsing(path), world, tally, path.read_bytes()[:300].decode("latin-1"))

    _run(trial, st.binary(max_size=80) | st.text(max_size=80) | YAMLS, rounds, seed)
    return tally


def attack_headers(world: World, rounds: int, seed: int) -> Tally:
    """Change bytes among the first of a shard or a table, whose checksums nobody looks at."""
    tally, chance = Tally("fuzzed HDF5 headers"), random.Random(seed)
    store = world.base / "headers"
    shutil.copytree(world.whole, store)
    paths = sorted(store.rglob("*.h5"))
    for trial in range(rounds):
        # Shards, table and reward head in turn.
        folders = sorted({path.parent for path in paths})
        folder = folders[trial % len(folders)]
        path = chance.choice([path for path in paths if path.parent == folder])
        whole = path.read_bytes()
        made = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            made[chance.randrange(min(HEADER, len(made)))] = chance.randrange(256)
        path.write_bytes(made)
        _judge(unchecked(everything(store)), world, tally, f"{path.name} of trial {trial}")
        path.write_bytes(whole)
    shutil.rmtree(store)
    return tally


def attack_rows(world: World, rounds: int, seed: int) -> Tally:
    """Files with every sort of bad row: every row is a pair or a counted refusal with a reason."""
    tally = Tally("malformed rows")
    path = world.base / "malformed.jsonl"

    def judge(check: Callable[[Path, list[Line]], Account], lines: list[Line]) -> None:
        tally.trials += 1
        try:
            account = check(path, lines)
        except Exception as error:
            tally.problems.append(f"{lines!r:.700}: {type(error).__name__}: {error}")
            return
        tally.counts["rows"] += account.rows
        tally.counts["refused"] += len(account.refusals)

    def compared(lines: list[Line]) -> None:
        judge(check_file, lines)

    def rated(lines: list[Line]) -> None:
        judge(check_rated_file, lines)

    half = max(1, rounds // 2)
    _run(compared, files(), half, seed)
    _run(rated, rated_files(), half, seed)
    return tally


def parsing(path: Path) -> Callable[[], int]:
    """Read a configuration file as every command does."""

    def read() -> int:
        from micro_rm.configs.command_line import parse

        try:
            parse(["train", f"--config={path}"])
        except SystemExit as end:  # jsonargparse has printed what is wrong
            return 1 if end.code else 0
        return 0

    return explained(read)


def unchecked(action: Callable[[], int]) -> Callable[[], int]:
    """An action for which every checksum is right, so that what lies behind it is reached."""

    def run() -> int:
        from micro_rm.cache import files, reader

        for module in (files, reader):
            for name in ("require_file", "file_problem"):
                if hasattr(module, name):
                    setattr(module, name, lambda *_: None)
        return action()

    return run


def _edit(raw: Any, data: st.DataObject) -> None:
    """Change one place of a tree of lists and dictionaries."""
    while True:
        keys = list(raw) if isinstance(raw, dict) else list(range(len(raw)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        inside = raw[key]
        if isinstance(inside, dict | list) and inside and data.draw(st.integers(0, 3)):
            raw = inside
            continue
        if data.draw(st.integers(0, 5)) == 0:
            del raw[key]
        elif isinstance(raw, dict) and data.draw(st.integers(0, 5)) == 0:
            raw[data.draw(st.text(max_size=5))] = data.draw(VALUES)
        else:
            raw[key] = data.draw(VALUES)
        return


def _judge(action: Callable[[], int], world: World, tally: Tally, said: str) -> None:
    tally.trials += 1
    end = attempt(action, world.base / "fuzz.log", seconds=SECONDS, memory=MEMORY)
    tally.counts["refused with a message" if end.status else "read all the same"] += 1
    if not end.well_behaved:
        tally.problems.append(f"{said!r}: ended with {end.status}: {end.said[-700:]}")


def _run(trial: Callable[[Any], None], strategy: Any, rounds: int, seed: int) -> None:
    """Try so many examples of a strategy."""
    fixed = settings(
        max_examples=rounds,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
    )
    hypothesis_seed(seed)(fixed(given(strategy)(trial)))()
