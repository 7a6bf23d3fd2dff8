"""Whether this machine can do the work: one check a line, with what to do where it cannot.

Checks are pure functions of facts, which ``machine_probes`` gathers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 1 << 30
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "beegfs", "gpfs", "ceph", "glusterfs")
FLOOR = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:([>=]=)\s*([0-9][0-9.]*))?")
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Check:
    """One line of the result: ``level`` is ok, warn or fail; ``remedy`` says what to do."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def check_versions(requirements: Iterable[str], installed: Mapping[str, str]) -> list[Check]:
    """Every requirement of the package against the versions at hand, extras less strictly."""
    problems = []
    for line in requirements:
        spec, _, marker = line.partition(";")
        match = FLOOR.match(spec.strip())
        if match is None or match[1] == "micro-rm" or "dev" in marker or "audit" in marker:
            continue
        name, wanted, found = match[1], match[3], installed.get(match[1])
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if found is None:
            text = "not installed" if extra is None else f"not installed, needed for {extra[1]}"
            install = name if extra is None else f"micro-rm[{extra[1]}]"
            level = FAIL if extra is None else WARN
            problems.append(Check(name, level, text, f"pip install '{install}'"))
        elif wanted and _number(found) < _number(wanted):
            remedy = f"pip install '{name}>={wanted}'"
            problems.append(Check(name, FAIL, f"{found}, needed is {wanted} or newer", remedy))
    shown = ", ".join(f"{name} {installed[name]}" for name in ("jax", "torch") if name in installed)
    return problems or [Check("versions", OK, f"all as required ({shown})")]


def check_cuda(
    gpus: list[str], torch_cuda: str | None, installed: Mapping[str, str]
) -> list[Check]:
    """GPUs against what torch and JAX were built for, and one CUDA at a time.

    ``torch_cuda`` is None without torch and empty for a CPU build.
    """
    plugins = sorted(name for name in installed if re.fullmatch(r"jax-cuda\d+-plugin", name))
    marks = (re.fullmatch(r"nvidia-.*-cu(\d+)", name) for name in installed)
    stacks = sorted({mark[1] for mark in marks if mark})
    built = f"torch for {f'CUDA {torch_cuda}' if torch_cuda else 'CPU'}, " * (
        torch_cuda is not None
    )
    found = f"{', '.join(gpus) or 'no GPU'}; {built}JAX for {plugins[0] if plugins else 'CPU'}"
    checks = [Check("devices", OK, found)]
    if gpus and torch_cuda == "":
        remedy = "install torch built for CUDA: embedding runs on the CPU otherwise"
        checks.append(Check("torch on GPU", WARN, "a CPU build", remedy))
    if gpus and not plugins:
        checks.append(Check("JAX on GPU", WARN, "a CPU build", "pip install 'micro-rm[cuda]'"))
    if len(stacks) > 1 or len(plugins) > 1:
        both = " and ".join(f"CUDA {stack}" for stack in stacks) if len(stacks) > 1 else "two"
        remedy = "keep torch and JAX of one CUDA version: a fresh environment is the surest way"
        checks.append(Check("CUDA libraries", WARN, f"{both} side by side", remedy))
    return checks


def check_numerics(environment: Mapping[str, str]) -> list[Check]:
    """Settings from outside that change products of matrices or who owns the GPU's memory."""
    bad = {
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "unset it: it makes float32 products 10 bits wide",
        "NVIDIA_TF32_OVERRIDE": "unset it: it makes float32 products 10 bits wide",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "unset it: JAX takes most of the memory torch may need",
    }
    checks = [
        Check(name, WARN, f"set to {environment[name][:20]}", remedy)
        for name, remedy in bad.items()
        if environment.get(name, "").lower() in YES
    ]
    return checks or [Check("numerics", OK, "TF32 and JAX's claim on memory are off as intended")]


def check_space(name: str, place: Path, free: int) -> Check:
    """Free bytes of a place."""
    found = f"{free / GIB:,.1f} GiB free at {place}"
    if free > 5 * GIB:
        return Check(name, OK, found)
    return Check(
        name, FAIL if free < GIB / 10 else WARN, found, "free space or choose another place"
    )


def check_file_system(kind: str, locks: str, syncs: str, skew: float) -> list[Check]:
    """Type of the store's file system, and the errors of trying locks and fsync (empty: none).

    ``skew`` is by how many seconds the clock of the file system is ahead of this machine's.
    """
    remote = kind in NETWORK or kind.startswith("fuse")
    checks = [Check("file system", OK, kind or "unknown")]
    if remote:
        remedy = "one machine at a time, unless its locks are known to hold between machines"
        checks = [Check("file system", WARN, f"{kind}, a network or user-space one", remedy)]
    other = "put store.dir on another file system"
    checks.append(Check("locks", FAIL if locks else OK, locks or "flock keeps others out", other))
    checks.append(Check("fsync", FAIL if syncs else OK, syncs or "works", other))
    if abs(skew) > 60:
        checks.append(
            Check("clock", WARN, f"files are {skew:+.0f} s off", "synchronise the clocks")
        )
    return [Check(c.name, c.level, c.found, "" if c.level == OK else c.remedy) for c in checks]


def check_clock(now: float) -> Check:
    """Seconds since 1970: certificates and records need a clock that is about right."""
    year = time.gmtime(now).tm_year
    if 2025 <= year < 2100:
        return Check("clock", OK, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))
    return Check("clock", WARN, f"the year is {year}", "set the clock")


def check_limits(files: int, memory: int, encoding: str) -> list[Check]:
    """Open files allowed, free bytes of memory, encoding of file names."""
    enough = "close other programs, lower embed.bin_tokens or train.memory_gib"
    checks = [
        (files >= 1024, "open files", f"{files} allowed", "ulimit -n 4096"),
        (memory >= 2 * GIB, "memory", f"{memory / GIB:,.1f} GiB free", enough),
        (encoding in ("utf-8", "utf8"), "locale", encoding, "export PYTHONUTF8=1"),
    ]
    return [
        Check(n, OK if good else WARN, found, "" if good else r) for good, n, found, r in checks
    ]


def check_cores(available: int, present: int) -> Check:
    """Cores that this process may use; every thread pool takes as many."""
    if available == present:
        return Check("cores", OK, f"{available}")
    return Check("cores", OK, f"{available} of {present}, by affinity or the quota of a container")


def check_types(device: str, choice: str, reason: str) -> Check:
    """The type that a backbone computes in by default on a device, and why."""
    return Check("backbone type", OK, f"{choice} on {device}: {reason}")


def check_hub(endpoint: str | None, offline: str | None, error: str) -> Check:
    """Whether models and data sets by name can be fetched; ``error`` is that of connecting."""
    if endpoint is None:
        return Check("hub", OK, "not needed: huggingface_hub is not installed")
    if offline is not None:
        return Check("hub", OK, f"offline by {offline}: only what was downloaded before is found")
    if not error:
        return Check("hub", OK, f"{endpoint} answers")
    remedy = "give local directories, set HF_ENDPOINT or a proxy, or HF_HUB_OFFLINE=1"
    return Check("hub", WARN, f"{endpoint} cannot be reached ({error})", remedy)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
