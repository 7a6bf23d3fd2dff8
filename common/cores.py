"""How many cores this process may use, and keeping every thread pool within them.

Schedulers and containers hand out a part of a machine in two ways: by affinity, which most
libraries respect, and by a quota of the control group, which most do not.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
# What the thread pools read when they start: OpenMP (torch, MKL), OpenBLAS (NumPy), XLA, Rayon
# (tokenizers).
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "RAYON_NUM_THREADS")


def available_cores(groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may keep busy: those of its affinity, within the quota of its group.

    A quota of a part of a core is rounded down, but never below one: threads beyond a quota are
    stopped while the others wait for them.

    Example:
        >>> available_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [quota for place in _places(groups, own) if (quota := _quota(place)) is not None]
    return max(1, min([cores or 1, *(int(quota) for quota in quotas)]))


def limit_threads(
    cores: int | None = None, environment: MutableMapping[str, str] = os.environ
) -> int:
    """Have every thread pool that starts from now on take this many threads; returns the number.

    By default that is ``available_cores()``. What the environment says already is left alone, so
    call this before torch, jax and NumPy are imported.
    """
    cores = available_cores() if cores is None else cores
    for name in POOLS:
        environment.setdefault(name, str(cores))
    return cores


def _places(groups: Path, own: Path) -> list[Path]:
    """Directories of this process's control groups and of all above them, whose quotas bind too."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return []
    places = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups if not controllers else groups / "cpu"  # version 2, or one tree per kind
        inner = root / group.lstrip("/")
        places += [place for place in (inner, *inner.parents) if place.is_relative_to(root)]
    return places


def _quota(group: Path) -> float | None:
    """Cores of a control group's quota, None where there is no limit."""
    try:
        limit, period = (group / "cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        try:
            limit = (group / "cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (group / "cpu.cfs_period_us").read_text("utf-8").strip()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)
