"""Sweeps on several devices, and on several processes, give the numbers of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

pytestmark = pytest.mark.long

SETTINGS = """
data: {name: small, source: simulator, simulator: {pairs: 400, test_pairs: 100, width: 12,
  directions: 2}}
views: {adapt_head: plain, adapt_router: context}
train: {learning_rate: 0.02, epochs: 3, batch_size: 32, router: linear, validation_fraction: 0.2}
adapt: {budget: 8, pool: 20, draws: 2, epochs: 2}
sweep: {methods: [micro_stage1], grid: {train.num_heads: [1, 3], run.seed: [0, 1, 2]}}
"""
NUMBERS = ("accuracy", "nll", "validation_nll")


def start(folder: Path, run: str, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own."""
    config = folder / "config.yaml"
    config.write_text(SETTINGS, "utf-8")
    words = ["sweep", "--config", str(config), "--run.dir", str(folder / run), *flags]
    program = "import sys; from micro_rm.pipeline import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    return out


def rows(folder: Path, run: str) -> list[dict[str, Any]]:
    return parquet.read_table(folder / run / "sweep.parquet").to_pylist()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("devices")
    finish(start(folder, "alone"))
    return folder, rows(folder, "alone")


def same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["method"]) == (other["label"], other["method"])
        for name in NUMBERS:
            assert one[name] == pytest.approx(other[name], abs=1e-5), (one["label"], name)


@pytest.mark.parametrize("sharing", ["1", "2"])
def test_four_devices_give_the_numbers_of_one(alone: Any, sharing: str) -> None:
    """Six members on four devices, or on two pairs that share every batch of 32."""
    folder, expected = alone
    flags = "--xla_force_host_platform_device_count=4"
    finish(start(folder, f"four-{sharing}", f"--train.data_devices={sharing}", XLA_FLAGS=flags))
    same(rows(folder, f"four-{sharing}"), expected)


def test_devices_that_cannot_be_grouped_are_an_error_with_a_remedy(alone: Any) -> None:
    process = start(
        alone[0],
        "three",
        "--train.data_devices=3",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "train.data_devices: expected a divisor of the number of devices (4), found 3" in out


def test_two_processes_share_the_members_and_leave_one_table(alone: Any) -> None:
    folder, expected = alone
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [
        start(
            folder,
            "shared",
            "--sweep.distributed=true",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]
    for process in both:
        assert "3 of 3 members" in finish(process)
    same(rows(folder, "shared"), expected)


def test_a_job_of_which_too_little_is_known_is_an_error(alone: Any) -> None:
    process = start(
        alone[0], "lost", "--sweep.distributed=true", JAX_COORDINATOR_ADDRESS="localhost:1"
    )
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "JAX_NUM_PROCESSES" in out and "JAX_PROCESS_ID" in out
