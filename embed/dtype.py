"""Choose the dtype that a backbone computes in: bfloat16 where it is faster, else float32.

A CPU without 16-bit instructions emulates them, many times slower than float32. A matrix product
of the backbone's shapes tells the two apart within a fraction of a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import linear

from .timing import best_seconds

Dtype = Literal["float32", "bfloat16"]
# Required ratio of the rates. Matrix products are about two thirds of a pass on a CPU; the rest
# gains nothing from fewer bits.
MIN_SPEEDUP = 1.5
MATMUL_OPERATIONS = 1e9
MIN_ROWS = 16
MAX_ROWS = 4096
DEFAULT_SHAPE = (1024, 4096)  # if no model is at hand


class MatmulRates(NamedTuple):
    """FLOP/s of a matrix product in each dtype."""

    float32: float
    bfloat16: float


def pick_dtype(requested: str, directory: Path, device: torch.device) -> tuple[Dtype, str]:
    """The dtype to compute in, and the reason in words.

    Args:
        requested: "float32", "bfloat16" or "auto".
        directory: The model, whose shapes are measured for "auto" on a CPU.
        device: Where the model will run.
    """
    if requested == "float32" or requested == "bfloat16":
        return requested, "as configured"
    if device.type == "cuda":
        return _gpu_dtype()
    return choose_dtype(measure_matmul_rates(device, *matmul_shape(directory)))


def choose_local_dtype(shape: tuple[int, int]) -> tuple[str, Dtype, str]:
    """The device that embedding would use here, the dtype for a model of ``shape``, and why.

    ``shape`` is that of ``matmul_shape``.
    """
    if torch.cuda.is_available():
        return "cuda", *_gpu_dtype()
    cpu = torch.device("cpu")
    return "cpu", *choose_dtype(measure_matmul_rates(cpu, *shape))


def choose_dtype(rates: MatmulRates) -> tuple[Dtype, str]:
    """Choose bfloat16 if its product is clearly faster, else float32; and the reason in words.

    Example:
        >>> choose_dtype(MatmulRates(float32=80e9, bfloat16=4e9))
        ('float32', 'a bfloat16 product runs at 4 GFLOP/s here, against 80 GFLOP/s in float32')
    """
    reason = (
        f"a bfloat16 product runs at {_gflops(rates.bfloat16)} here, "
        f"against {_gflops(rates.float32)} in float32"
    )
    faster = rates.bfloat16 > MIN_SPEEDUP * rates.float32
    return "bfloat16" if faster else "float32", reason


def _gpu_dtype() -> tuple[Dtype, str]:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "this GPU computes it"
    return "float32", "this GPU does not compute bfloat16"


def matmul_shape(directory: Path) -> tuple[int, int]:
    """Width of a model and of its feed-forward layers, or ``DEFAULT_SHAPE`` if it does not say.

    Errors in its config.json are left to the loader of the model, which explains them.
    """
    from transformers import AutoConfig  # not needed to measure without a model

    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        ).get_text_config()
    except (OSError, ValueError, KeyError):
        return DEFAULT_SHAPE
    width = int(getattr(config, "hidden_size", 0))
    inner = getattr(config, "intermediate_size", None) or 4 * width
    return (width, int(inner)) if width else DEFAULT_SHAPE


@torch.inference_mode()
def measure_matmul_rates(device: torch.device, width: int, inner: int) -> MatmulRates:
    """FLOP/s of a product (rows, width) x (width, inner) in both dtypes, measured now."""
    rows = int(min(MAX_ROWS, max(MIN_ROWS, MATMUL_OPERATIONS / (2 * width * inner))))
    operations = 2.0 * rows * width * inner
    rows_BxD = torch.randn(rows, width, device=device)
    weight_FxD = torch.randn(inner, width, device=device)
    rows16_BxD, weight16_FxD = rows_BxD.bfloat16(), weight_FxD.bfloat16()
    return MatmulRates(
        float32=operations / best_seconds(lambda: linear(rows_BxD, weight_FxD)),
        bfloat16=operations / best_seconds(lambda: linear(rows16_BxD, weight16_FxD)),
    )


def _gflops(rate: float) -> str:
    return f"{rate / 1e9:,.3g} GFLOP/s"
