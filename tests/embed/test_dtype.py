"""The type of the computation where nobody says: by measured speed on a CPU, by what a GPU can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from micro_rm.embed import dtype, timing
from micro_rm.embed.dtype import (
    MatmulRates,
    choose_dtype,
    matmul_shape,
    measure_matmul_rates,
    pick_dtype,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("narrow", "expected"),
    [(4e9, "float32"), (119e9, "float32"), (121e9, "bfloat16")],
)
def test_bfloat16_has_to_be_clearly_faster(narrow: float, expected: str) -> None:
    chosen, reason = choose_dtype(MatmulRates(float32=80e9, bfloat16=narrow))
    assert chosen == expected
    assert reason == (
        f"a bfloat16 product runs at {narrow / 1e9:.3g} GFLOP/s here, against 80 GFLOP/s in float32"
    )


def test_a_type_that_was_asked_for_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dtype, "measure_matmul_rates", None)
    assert pick_dtype("float32", tmp_path, CUDA) == ("float32", "as configured")
    assert pick_dtype("bfloat16", tmp_path, CPU) == ("bfloat16", "as configured")


@pytest.mark.parametrize(("able", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_is_asked_what_it_computes(
    able: bool, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert pick_dtype("auto", tmp_path, CUDA)[0] == expected


def test_a_cpu_is_measured_with_the_models_own_shapes(
    monkeypatch: pytest.MonkeyPatch, backbone_path: Callable[[str], Path]
) -> None:
    asked = []

    def measure(device: torch.device, width: int, inner: int) -> MatmulRates:
        asked.append((device, width, inner))
        return MatmulRates(1e9, 9e9)

    monkeypatch.setattr(dtype, "measure_matmul_rates", measure)
    assert pick_dtype("auto", backbone_path("llama"), CPU)[0] == "bfloat16"
    assert asked == [(CPU, 32, 48)]
    assert matmul_shape(backbone_path("gpt2")) == (32, 128)


def test_rates_are_those_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that ticks one second a call: both types take as long, and both are counted right."""
    ticks = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    assert measure_matmul_rates(CPU, 64, 32) == MatmulRates(
        2.0 * 4096 * 64 * 32, 2.0 * 4096 * 64 * 32
    )


def test_a_slow_type_is_given_up_after_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def product(rows: torch.Tensor, _: torch.Tensor) -> None:
        calls.append(rows.dtype)

    def clock() -> float:
        return 100.0 * calls.count(torch.bfloat16) + 0.001 * len(calls)

    monkeypatch.setattr(dtype, "linear", product)
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    rates = measure_matmul_rates(CPU, 64, 32)
    assert calls.count(torch.bfloat16) == 1 and calls.count(torch.float32) == 6
    assert rates.float32 > 1e4 * rates.bfloat16
