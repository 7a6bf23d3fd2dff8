"""The rate of an embedding pass, compared with the device's peak rate of matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .attention import count_visible_pairs
from .timing import best_seconds
from .trees import Layout

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
PEAK_SIZE = {"cuda": 8192, "cpu": 1024}


@dataclass
class Work:
    """What was computed, padding excluded.

    Attributes:
        tokens: Tokens of all forward passes.
        attended: Pairs of a query and a key visible to it, per head and layer.
    """

    tokens: int = 0
    attended: int = 0

    def add_tree(self, layout: Layout) -> None:
        """Count a bin of prefix trees."""
        self.tokens += len(layout.token_ids)
        self.attended += count_visible_pairs(layout)

    def add_row(self, length: int, *, causal: bool) -> None:
        """Count a sequence of ``length`` tokens that has a row of its own."""
        self.tokens += length
        self.attended += length * (length + 1) // 2 if causal else length * length


@dataclass(frozen=True)
class Throughput:
    """Rates of a pass.

    Attributes:
        tokens_per_second: Computed tokens, padding excluded.
        flops_per_second: Useful FLOP/s; None if they cannot be counted for the model.
        peak_flops_per_second: Peak FLOP/s of a matrix product on the devices used.
    """

    tokens_per_second: float
    flops_per_second: float | None
    peak_flops_per_second: float

    @property
    def utilization(self) -> float | None:
        """Useful FLOP/s over the measured peak (model FLOPs utilization); None without either.

        The peak is 0 if all Ray actors found every shard sealed and measured nothing.
        """
        if self.flops_per_second is None or not self.peak_flops_per_second:
            return None
        return self.flops_per_second / self.peak_flops_per_second


def compute_throughput(model: Any, work: Work, seconds: float, peak: float) -> Throughput:
    """Rates of ``work`` that took ``seconds``; ``peak`` is the devices' FLOP/s."""
    seconds = max(seconds, 1e-9)
    flops = useful_flops(model, work)
    return Throughput(
        tokens_per_second=work.tokens / seconds,
        flops_per_second=None if flops is None else flops / seconds,
        peak_flops_per_second=peak,
    )


def useful_flops(model: Any, work: Work) -> float | None:
    """Floating-point operations that the work requires of a transformer.

    A token takes two per weight matrix entry, embedding tables excluded. Attention takes four per
    head dimension and visible pair, in every head and layer: two for the logits and two for the
    weighted sum. Returns None for a mixture of experts, whose tokens use only some of the weights,
    and for a model without attention heads.
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
    """FLOP/s of a large square matrix product on this device, measured now."""
    size = PEAK_SIZE[device.type]
    matrix = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(matrix)

    def product() -> None:
        torch.mm(matrix, matrix, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * size**3 / best_seconds(product)
