"""How fast an embedding pass is, against what the device's matrix unit can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .attention import visible_keys
from .timing import fastest
from .trees import Layout

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
PEAK_SIZE = {"cuda": 8192, "cpu": 1024}


@dataclass
class Work:
    """What was computed: tokens, and pairs of a query and a key that it sees. No padding."""

    tokens: int = 0
    attended: int = 0

    def add_tree(self, layout: Layout) -> None:
        """A bin of trees."""
        self.tokens += len(layout.token_ids)
        self.attended += visible_keys(layout)

    def add_row(self, length: int, *, causal: bool) -> None:
        """A sequence in a row of its own."""
        self.tokens += length
        self.attended += length * (length + 1) // 2 if causal else length * length


@dataclass(frozen=True)
class Speed:
    """Rates of a pass: real tokens and useful operations per second, and the matrix peak."""

    tokens_per_second: float
    flops_per_second: float | None
    peak_flops_per_second: float

    @property
    def share(self) -> float | None:
        """Useful operations as a share of the device's measured matrix peak; None without either.

        Ray actors that found nothing left to do have measured no peak.
        """
        if self.flops_per_second is None or not self.peak_flops_per_second:
            return None
        return self.flops_per_second / self.peak_flops_per_second


def measure_speed(model: Any, work: Work, seconds: float, peak: float) -> Speed:
    """The rates of work that took some seconds, beside the matrix peak of the devices used."""
    seconds = max(seconds, 1e-9)
    flops = useful_flops(model, work)
    return Speed(
        tokens_per_second=work.tokens / seconds,
        flops_per_second=None if flops is None else flops / seconds,
        peak_flops_per_second=peak,
    )


def useful_flops(model: Any, work: Work) -> float | None:
    """Floating-point operations that the work needs: two per weight and token, and attention.

    Four per head dimension and attended pair (performance study, 1.1). None for a mixture of
    experts, whose tokens use some of the weights only, and for a model without attention heads.
    """
    config = model.config.get_text_config()
    experts = any(getattr(config, name, None) for name in EXPERTS)
    if experts or not getattr(config, "num_attention_heads", None):
        return None
    heads = int(config.num_attention_heads)
    head_size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    weights = sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.ndim == 2 and id(parameter) not in embeddings
    )
    per_pair = 4 * heads * head_size * int(config.num_hidden_layers)
    return 2.0 * weights * work.tokens + float(per_pair) * work.attended


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product on this device, measured now."""
    size = PEAK_SIZE[device.type]
    one = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(one)

    def product() -> None:
        torch.mm(one, one, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * size**3 / fastest(product)
