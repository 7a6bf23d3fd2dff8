"""Cores are counted by affinity and cgroup quotas, and thread pools are limited to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from micro_rm.common import cores
from micro_rm.common.cores import POOL_VARIABLES, available_cores, limit_threads


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 64 cores, all of which the affinity allows."""
    monkeypatch.setattr(os, "sched_getaffinity", {0: set(range(64))}.__getitem__)


def group(root: Path, name: str, **files: str) -> Path:
    """A control group's directory with its files."""
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (directory / file.replace("__", ".")).write_text(text + "\n")
    return directory


def in_group(tmp_path: Path, line: str) -> int:
    own = tmp_path / "own"
    own.write_text(line + "\n")
    return available_cores(tmp_path / "groups", own)


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)],
)
def test_a_quota_is_rounded_down_but_not_to_nothing(
    quota: str, expected: int, tmp_path: Path
) -> None:
    group(tmp_path / "groups", "job", cpu__max=quota)
    assert in_group(tmp_path, "0::/job") == expected


@pytest.mark.usefixtures("many_cores")
def test_the_tightest_quota_on_the_way_up_binds(tmp_path: Path) -> None:
    group(tmp_path / "groups", "slice", cpu__max="300000 100000")
    group(tmp_path / "groups", "slice/job", cpu__max="max 100000")
    assert in_group(tmp_path, "0::/slice/job") == 3


@pytest.mark.usefixtures("many_cores")
def test_a_container_that_sees_no_path_of_its_own_reads_the_root(tmp_path: Path) -> None:
    group(tmp_path / "groups", "", cpu__max="400000 100000")
    assert in_group(tmp_path, "0::/docker/0123") == 4


@pytest.mark.usefixtures("many_cores")
def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    limits = {"cpu__cfs_quota_us": "500000", "cpu__cfs_period_us": "100000"}
    group(tmp_path / "groups", "cpu/job", **limits)
    assert in_group(tmp_path, "4:cpu,cpuacct:/job") == 5
    assert in_group(tmp_path, "4:memory:/job") == 64
    group(tmp_path / "groups", "cpu/job", cpu__cfs_quota_us="-1")
    assert in_group(tmp_path, "4:cpu,cpuacct:/job") == 64


def test_affinity_counts_where_there_is_no_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", {0: {3, 7}}.__getitem__)
    assert available_cores(tmp_path / "none", tmp_path / "none") == 2


def test_what_the_environment_says_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    environment = {"OMP_NUM_THREADS": "7"}
    assert limit_threads(environment=environment) == 2
    assert environment == dict.fromkeys(POOL_VARIABLES, "2") | {"OMP_NUM_THREADS": "7"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_one_core_of_several_means_one_thread_everywhere() -> None:
    """In a process that may use one core, torch, XLA and tokenizers use one thread."""
    script = """
import json, os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from micro_rm.common.cores import limit_threads
cores = limit_threads()
import jax, jax.numpy as jnp, torch
jax.block_until_ready(jnp.ones((64, 64)) @ jnp.ones((64, 64)))
tasks = os.listdir("/proc/self/task")
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in tasks]
print(json.dumps([cores, torch.get_num_threads(), names.count("tf_XLAEigen"),
                  os.environ["RAYON_NUM_THREADS"]]))
"""
    environment = {name: value for name, value in os.environ.items() if name not in POOL_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, 1, "1"]
