"""Count the cores that this process may use, and limit thread pools to them.

Schedulers and containers restrict a process in two ways: by CPU affinity, which most libraries
respect, and by a CPU quota of its control group (cgroup), which most do not.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# Environment variables from which thread pools take their size when they start: OpenMP (torch,
# MKL), OpenBLAS (NumPy), XLA, Rayon (tokenizers).
POOL_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "RAYON_NUM_THREADS")


def available_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Count the cores that this process may keep busy: its affinity mask, capped by its quota.

    A fractional quota is rounded down, but not below 1: with more threads than the quota allows,
    the kernel suspends some while the others wait for them.

    Args:
        cgroups: Directory where the control groups are mounted.
        own: File that names the control groups of this process.

    Example:
        >>> available_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    groups = _group_directories(cgroups, own)
    quotas = [quota for group in groups if (quota := _quota(group)) is not None]
    return max(1, min([cores or 1, *(int(quota) for quota in quotas)]))


def limit_threads(
    cores: int | None = None, environment: MutableMapping[str, str] = os.environ
) -> int:
    """Set the environment variables that size thread pools, unless they are set already.

    Libraries read them when they are loaded, so call this before torch, jax and NumPy are imported.

    Args:
        cores: Threads per pool; by default ``available_cores()``.
        environment: Mapping to change.

    Returns:
        The number of cores.
    """
    cores = available_cores() if cores is None else cores
    for name in POOL_VARIABLES:
        environment.setdefault(name, str(cores))
    return cores


def _group_directories(cgroups: Path, own: Path) -> list[Path]:
    """Directories of this process's control groups and their ancestors, whose quotas apply too."""
    try:
        lines = own.read_text("utf-8").splitlines()
    except OSError:
        return []
    directories = []
    for line in lines:  # hierarchy:controllers:path
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Version 2 has one tree and names no controllers, version 1 has a tree per controller.
        root = cgroups / "cpu" if controllers else cgroups
        leaf = root / group.lstrip("/")
        directories += [path for path in (leaf, *leaf.parents) if path.is_relative_to(root)]
    return directories


def _quota(group: Path) -> float | None:
    """CPU quota of a control group in cores, None if it has no limit."""
    try:  # version 2
        limit, period = (group / "cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        try:  # version 1
            limit = (group / "cpu.cfs_quota_us").read_text("utf-8").strip()
            period = (group / "cpu.cfs_period_us").read_text("utf-8").strip()
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)
