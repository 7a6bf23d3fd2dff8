"""The frozen model: batches of planned passes in, vectors at their read-outs out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from ..configs.schema import BackboneConfig, ConfigError
from .planning import Pass

POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backbone(Protocol):
    """What the embedding loop needs of a model; how passes share work is its own affair."""

    width: int
    pooling: str
    share_prefixes: bool

    def vectors(self, batch: Sequence[Pass]) -> np.ndarray:
        """One vector per read-out, in the order of the passes and of their read-outs."""
        ...


class TorchBackbone:
    """A transformers base model: no language-model head, no stack of hidden states, no cache.

    Sequences are padded on the right by default. ``causal`` is measured, not believed: a changed
    last token must not move the states before it.
    """

    def __init__(
        self,
        directory: Path,
        config: BackboneConfig,
        *,
        device: str = "auto",
        padding_side: str = "right",
    ) -> None:
        self.device = pick_device(device)
        self.dtype = config.dtype
        self.padding_side = padding_side
        self.model = load_model(AutoModel, directory, config).to(self.device)
        self._first_position = self._check_positions(config)
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.causal = self._measure_causality()
        self.pooling = config.pooling
        if config.pooling == "auto":
            self.pooling = "last" if self.causal else "mean"
        if self.pooling == "last" and not self.causal:
            raise ConfigError(
                f"backbone.pooling: {config.name} reads in both directions, its last token has no "
                "special meaning; use mean or cls"
            )
        self.share_prefixes = self.pooling == "last"

    def vectors(self, batch: Sequence[Pass]) -> np.ndarray:
        """One vector per read-out, in the order of the passes and of their read-outs."""
        ids, mask, starts = collate([item.token_ids for item in batch], self.padding_side)
        states = self._states(ids, mask)
        if self.pooling == "last":
            rows = [place for place, item in enumerate(batch) for _ in item.readouts]
            columns = [
                int(start) + readout
                for start, item in zip(starts, batch, strict=True)
                for readout in item.readouts
            ]
            pooled = states[rows, columns]
        elif self.pooling == "cls":
            pooled = states[range(len(batch)), starts.tolist()]
        else:
            weights = torch.from_numpy(mask).to(self.device, torch.float32)
            pooled = torch.einsum("bsd,bs->bd", states.float(), weights) / weights.sum(1)[:, None]
        return to_numpy(pooled.to(DTYPES[self.dtype]))

    @torch.inference_mode()
    def _states(self, ids: np.ndarray, mask: np.ndarray) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self.device)}
        if self.padding_side == "left":
            positions = np.maximum(mask.cumsum(axis=1) - 1, 0) + self._first_position
            inputs["position_ids"] = torch.from_numpy(positions).to(self.device)
        # Behind right padding a causal model needs no mask: no real token sees a later one.
        if not (self.causal and self.padding_side == "right"):
            inputs["attention_mask"] = torch.from_numpy(mask).to(self.device)
        if self.causal:
            inputs["use_cache"] = False
        return self.model(**inputs).last_hidden_state

    def _check_positions(self, config: BackboneConfig) -> int:
        """Number of the first position; refuses a ``max_length`` beyond a table of positions."""
        table = learned_positions(self.model)
        if table is None:
            return 0
        # RoBERTa counts from behind its padding id.
        first = 0 if table.padding_idx is None else table.padding_idx + 1
        if config.max_length > table.num_embeddings - first:
            raise ConfigError(
                f"backbone.max_length: {config.name} knows {table.num_embeddings - first} "
                f"positions, found {config.max_length}; lower it, and see backbone.overlong for "
                "what happens to longer rows"
            )
        return first

    def _measure_causality(self) -> bool:
        self.causal = False
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        first = np.arange(1, 9, dtype=np.int64) % vocabulary
        second = first.copy()
        second[-1] = (second[-1] + 1) % vocabulary
        mask = np.ones((1, 8), np.int64)
        before = self._states(first[None], mask)[0, :-1].float()
        after = self._states(second[None], mask)[0, :-1].float()
        return bool(torch.allclose(before, after, rtol=0, atol=1e-6))


def collate(
    sequences: Sequence[np.ndarray], padding_side: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded ids (B, S), mask (B, S) and the column of each first token (B,), all int64.

    Padding repeats id 0: behind the mask, or after the last read-out, its value cannot matter.
    """
    longest = max(len(ids) for ids in sequences)
    padded = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros((len(sequences), longest), np.int64)
    starts = np.zeros(len(sequences), np.int64)
    for row, ids in enumerate(sequences):
        start = longest - len(ids) if padding_side == "left" else 0
        padded[row, start : start + len(ids)] = ids
        mask[row, start : start + len(ids)] = 1
        starts[row] = start
    return padded, mask, starts


def load_model(auto_class: Any, directory: Path, config: BackboneConfig) -> Any:
    """Load safetensors weights from a local directory in the configured dtype, frozen."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = auto_class.from_pretrained(
            directory,
            dtype=DTYPES[config.dtype],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"backbone.name: {directory} cannot be loaded: {error}") from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"backbone.name: {directory} lacks the weights {', '.join(missing[:3])} "
            f"({len(missing)} in all), which would be random; the checkpoint does not fit its "
            "config.json"
        )
    return model.eval().requires_grad_(False)


def learned_positions(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The table of learned absolute positions, None for rotary and relative ones."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in POSITION_TABLES:
            return module
    return None


def pick_device(device: str) -> torch.device:
    """CUDA when present under ``auto``; a clear error when CUDA is asked for in vain."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("embed.device: cuda asked for, but torch sees no CUDA device; use cpu")
    return torch.device(device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """A host copy in the same type; bfloat16 through its bits, which NumPy itself lacks."""
    tensor = tensor.contiguous().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
