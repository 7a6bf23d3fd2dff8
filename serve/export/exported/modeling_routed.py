"""Reward heads under a router: hidden vectors in, rewards out. Needs torch and safetensors only.

    heads = RoutedHeads.from_directory("path/to/this/directory")
    out = heads(response_vectors, router_vectors)   # (N, D) each, float32
    out.reward, out.weights, out.head_rewards       # (N,), (N, K), (N, K)

``reward_funcs.py`` next to this file computes these vectors from text. Only differences between
rewards for the same prompt and context are meaningful; zero has no meaning.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

METADATA, HEADS, ROUTER = "micro_rm.json", "heads.safetensors", "router.safetensors"
FORMAT = 1
# Tensors of every kind of router, in addition to the input scaling.
KINDS = {
    "static": {"logits"},
    "linear": {"output.kernel", "output.bias"},
    "mlp": {"hidden.kernel", "hidden.bias", "output.kernel", "output.bias"},
    "kernel": {"centre", "projection", "kernel", "intercept"},
}


class RoutedRewards(NamedTuple):
    """Rewards (N,) of N responses, head weights (N, K) and head rewards (N, K)."""

    reward: Tensor
    weights: Tensor
    head_rewards: Tensor


class RoutedHeads(torch.nn.Module):
    """K linear heads over D features, weighted by a router.

    The router was fitted once per draw of labelled rows, S times in total; its weights are averaged
    over the draws.
    """

    def __init__(self, metadata: dict, heads: dict[str, Tensor], router: dict[str, Tensor]) -> None:
        """Build from ``micro_rm.json`` and the tensors of an export; see ``from_directory``."""
        super().__init__()
        self.kind, self.tau = metadata["router"], metadata["tau"] or 1.0
        self.names = list(metadata["heads"])
        expected = KINDS[self.kind] | {"input_mean", "input_scale"}
        if set(router) != expected:
            raise ValueError(
                f"{ROUTER}: expected the tensors {sorted(expected)}, found {sorted(router)}; copy "
                "the whole export again"
            )
        for name, tensor in (
            heads | {f"router.{key}": value for key, value in router.items()}
        ).items():
            self.register_buffer(name.replace(".", "_"), tensor)

    @classmethod
    def from_directory(cls, directory: str | Path) -> RoutedHeads:
        """Load the heads and router of an export.

        Raises ``FileNotFoundError`` if a file is missing, and ``ValueError`` if its bytes have
        changed: heads have no meaning under the router of another export.
        """
        directory = Path(directory)
        metadata = json.loads((directory / METADATA).read_text("utf-8"))
        found = metadata.get("tier"), metadata.get("format")
        if found != ("routed", FORMAT):
            raise ValueError(
                f"{directory / METADATA}: expected tier routed in format {FORMAT}, found tier "
                f"{found[0]} in format {found[1]}; export the run again with --export.tier routed"
            )
        parts = {}
        for name in (HEADS, ROUTER):
            path = directory / name
            if not path.is_file():
                raise FileNotFoundError(f"{path}: missing; copy the whole export")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            expected = metadata["sha256"][name]
            if digest != expected:
                raise ValueError(
                    f"{path}: expected sha256 {expected}, as in {METADATA}, found {digest}; copy "
                    "the whole export again"
                )
            parts[name] = load_file(path)
        return cls(metadata, parts[HEADS], parts[ROUTER]).eval()

    @torch.no_grad()
    def forward(self, response: Tensor, router_input: Tensor) -> RoutedRewards:
        """Compute rewards from the vectors (N, D) of responses and of the router's inputs.

        Raises ``ValueError`` if the shapes differ from each other or from the heads'.
        """
        expected = (len(response), self.get_buffer("heads").shape[0])
        for name, vectors in (("response", response), ("router_input", router_input)):
            if tuple(vectors.shape) != expected:
                raise ValueError(f"{name}: expected {expected}, found {tuple(vectors.shape)}")
        scaled = response.float() / self.get_buffer("delta_scale")
        head_rewards = scaled @ self.get_buffer("heads")
        weights = torch.softmax(self._logits(router_input.float()), dim=-1).mean(dim=0)
        weights = weights.to(head_rewards.dtype)
        return RoutedRewards((weights * head_rewards).sum(-1), weights, head_rewards)

    def _router(self, name: str) -> Tensor:
        return self.get_buffer(f"router_{name}")

    def _logits(self, vectors: Tensor) -> Tensor:
        """Logits (S, N, K) of the router, one set per draw."""
        if self.kind == "static":
            return self._router("logits")[:, None].expand(-1, len(vectors), -1)
        if self.kind == "kernel":
            return self._kernel_logits(vectors.double())
        hidden = ((vectors - self._router("input_mean")) / self._router("input_scale"))[None]
        if self.kind == "mlp":
            hidden = hidden @ self._router("hidden_kernel") + self._router("hidden_bias")[:, None]
            hidden = torch.relu(hidden)
        return hidden @ self._router("output_kernel") + self._router("output_bias")[:, None]

    def _kernel_logits(self, vectors: Tensor) -> Tensor:
        """Logits (S, N, K) of the kernel router: the heads' predicted losses, divided by -tau.

        The losses are linear in the centred vector and its projection, each scaled to unit length.
        """
        offset = vectors[None] - self._router("centre").double()[:, None]
        parts = (offset, offset @ self._router("projection").double())
        unit = [part / part.norm(dim=-1, keepdim=True).clamp_min(1e-12) for part in parts]
        features = torch.cat(unit, dim=-1) / 2**0.5
        losses = features @ self._router("kernel").double()
        return -(losses + self._router("intercept").double()[:, None]) / self.tau
