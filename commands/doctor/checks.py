"""Checks of a machine, each with a remedy for what is wrong.

They are pure functions of facts, which ``probes`` gathers.
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
# Name, optional extras and optional version bound of a requirement such as jax[cuda]>=0.10.
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:([>=]=)\s*([0-9][0-9.]*))?")
YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        name: What was checked.
        level: ok, warn or fail.
        found: What was found.
        remedy: What to do about it; empty if the level is ok.
    """

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def check_versions(requirements: Iterable[str], installed: Mapping[str, str]) -> list[Check]:
    """Compare installed versions with the requirements of the package.

    Args:
        requirements: Requirement lines of the package metadata.
        installed: Installed versions by name.

    A missing package is a failure, or a warning if only an extra needs it.
    """
    problems = []
    for line in requirements:
        spec, _, marker = line.partition(";")
        match = REQUIREMENT.match(spec.strip())
        if match is None or match[1] == "micro-rm" or "dev" in marker or "audit" in marker:
            continue
        name, required, version = match[1], match[3], installed.get(match[1])
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if version is None:
            text = "not installed" if extra is None else f"not installed, needed for {extra[1]}"
            install = name if extra is None else f"micro-rm[{extra[1]}]"
            level = FAIL if extra is None else WARN
            problems.append(Check(name, level, text, f"pip install '{install}'"))
        elif required and _version_tuple(version) < _version_tuple(required):
            remedy = f"pip install '{name}>={required}'"
            problems.append(Check(name, FAIL, f"{version}, needed is {required} or newer", remedy))
    shown = ", ".join(f"{name} {installed[name]}" for name in ("jax", "torch") if name in installed)
    return problems or [Check("versions", OK, f"all as required ({shown})")]


def check_cuda(
    gpus: list[str], torch_cuda: str | None, installed: Mapping[str, str]
) -> list[Check]:
    """Check that torch and JAX are built for the GPUs, and for one version of CUDA.

    Args:
        gpus: Names of the GPUs.
        torch_cuda: CUDA version that torch is built for, empty for CPU, None without torch.
        installed: Installed versions by name.
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
    """Check the environment for settings of TF32 and of JAX's memory preallocation."""
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


def check_space(name: str, directory: Path, free: int) -> Check:
    """Check the free space of a directory, in bytes: 5 GiB are enough."""
    found = f"{free / GIB:,.1f} GiB free at {directory}"
    if free > 5 * GIB:
        return Check(name, OK, found)
    return Check(
        name, FAIL if free < GIB / 10 else WARN, found, "free space or choose another place"
    )


def check_file_system(kind: str, locks: str, syncs: str, skew: float) -> list[Check]:
    """Check the file system of a store.

    Args:
        kind: Type of the file system, empty if unknown.
        locks: Error of a trial of flock, empty if it worked.
        syncs: Error of a trial of fsync, empty if it worked.
        skew: Seconds by which the clock of the file system is ahead of that of this machine.
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
    """Check the time, in seconds since 1970; certificates and records need a sane clock."""
    year = time.gmtime(now).tm_year
    if 2025 <= year < 2100:
        return Check("clock", OK, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)))
    return Check("clock", WARN, f"the year is {year}", "set the clock")


def check_limits(files: int, memory: int, encoding: str) -> list[Check]:
    """Check the limit of open files, the free memory in bytes and the encoding of file names."""
    free_memory = "close other programs, lower embed.bin_tokens or train.memory_gib"
    checks = [
        (files >= 1024, "open files", f"{files} allowed", "ulimit -n 4096"),
        (memory >= 2 * GIB, "memory", f"{memory / GIB:,.1f} GiB free", free_memory),
        (encoding in ("utf-8", "utf8"), "locale", encoding, "export PYTHONUTF8=1"),
    ]
    return [
        Check(n, OK if good else WARN, found, "" if good else r) for good, n, found, r in checks
    ]


def check_cores(available: int, present: int) -> Check:
    """Report the cores that this process may use, which is the size of all thread pools."""
    if available == present:
        return Check("cores", OK, f"{available}")
    return Check("cores", OK, f"{available} of {present}, by affinity or the quota of a container")


def check_types(device: str, choice: str, reason: str) -> Check:
    """Report the default type of a backbone on a device, and the reason."""
    return Check("backbone type", OK, f"{choice} on {device}: {reason}")


def check_hub(endpoint: str | None, offline: str | None, error: str) -> Check:
    """Check that the hub can be reached.

    Args:
        endpoint: Address of the hub, None without huggingface_hub.
        offline: Environment variable that asks for offline mode, None if none does.
        error: Error of a connection, empty if it worked.
    """
    if endpoint is None:
        return Check("hub", OK, "not needed: huggingface_hub is not installed")
    if offline is not None:
        return Check("hub", OK, f"offline by {offline}: only what was downloaded before is found")
    if not error:
        return Check("hub", OK, f"{endpoint} answers")
    remedy = "give local directories, set HF_ENDPOINT or a proxy, or HF_HUB_OFFLINE=1"
    return Check("hub", WARN, f"{endpoint} cannot be reached ({error})", remedy)


def _version_tuple(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, without a local part such as +cu128."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
