"""The type that a backbone computes in where nobody says: bfloat16 only where it is faster.

A CPU without 16-bit instructions emulates them, many times slower than float32. Which one this is,
a matrix product of the backbone's shapes tells within a fraction of a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import linear

from .timing import fastest

Dtype = Literal["float32", "bfloat16"]
# Products are about two thirds of a pass on a CPU; the rest gains nothing from fewer bits.
CLEARLY_FASTER = 1.5
PRODUCT_OPERATIONS = 1e9
LEAST_ROWS = 16
MOST_ROWS = 4096
USUAL_SHAPE = (1024, 4096)  # for want of a model


class Rates(NamedTuple):
    """Operations per second of one product in each type."""

    float32: float
    bfloat16: float


def pick_dtype(asked: str, directory: Path, device: torch.device) -> tuple[Dtype, str]:
    """The type to compute in, and why, in words.

    ``directory`` holds the model, whose shapes are measured if ``asked`` is auto on a CPU.
    """
    if asked == "float32" or asked == "bfloat16":
        return asked, "as configured"
    if device.type == "cuda":
        return _gpu_dtype()
    return choose_dtype(measure_rates(device, *product_shape(directory)))


def choose_dtype_here(shape: tuple[int, int]) -> tuple[str, Dtype, str]:
    """The device that embedding would take, the type on it for a model of a shape, and why."""
    if torch.cuda.is_available():
        return "cuda", *_gpu_dtype()
    cpu = torch.device("cpu")
    return "cpu", *choose_dtype(measure_rates(cpu, *shape))


def choose_dtype(rates: Rates) -> tuple[Dtype, str]:
    """bfloat16 if its product is clearly faster, else float32; and the reason in words.

    Example:
        >>> choose_dtype(Rates(float32=80e9, bfloat16=4e9))
        ('float32', 'a bfloat16 product runs at 4 GFLOP/s here, against 80 GFLOP/s in float32')
    """
    reason = (
        f"a bfloat16 product runs at {_gflops(rates.bfloat16)} here, "
        f"against {_gflops(rates.float32)} in float32"
    )
    faster = rates.bfloat16 > CLEARLY_FASTER * rates.float32
    return "bfloat16" if faster else "float32", reason


def _gpu_dtype() -> tuple[Dtype, str]:
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16", "this GPU computes it"
    return "float32", "this GPU does not compute bfloat16"


def product_shape(directory: Path) -> tuple[int, int]:
    """Width of a model and of its feed-forward layers; those of a usual one where it does not say.

    What cannot be read is left for the loader to refuse.
    """
    from transformers import AutoConfig  # doctor measures without a model

    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        ).get_text_config()
    except (OSError, ValueError, KeyError):
        return USUAL_SHAPE
    width = int(getattr(config, "hidden_size", 0))
    inner = getattr(config, "intermediate_size", None) or 4 * width
    return (width, int(inner)) if width else USUAL_SHAPE


@torch.inference_mode()
def measure_rates(device: torch.device, width: int, inner: int) -> Rates:
    """Operations per second of (rows, width) times (width, inner) in both types, measured now."""
    rows = int(min(MOST_ROWS, max(LEAST_ROWS, PRODUCT_OPERATIONS / (2 * width * inner))))
    operations = 2.0 * rows * width * inner
    rows_BxD = torch.randn(rows, width, device=device)
    weight_FxD = torch.randn(inner, width, device=device)
    narrow_BxD, narrow_FxD = rows_BxD.bfloat16(), weight_FxD.bfloat16()
    return Rates(
        float32=operations / fastest(lambda: linear(rows_BxD, weight_FxD)),
        bfloat16=operations / fastest(lambda: linear(narrow_BxD, narrow_FxD)),
    )


def _gflops(rate: float) -> str:
    return f"{rate / 1e9:,.3g} GFLOP/s"
