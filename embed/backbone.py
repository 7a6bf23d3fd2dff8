"""The frozen model: token sequences in, the vectors at their last tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from ..common.cores import available_cores
from ..common.errors import ConfigError
from ..configs.schema import BackboneConfig
from .dtype import pick_dtype
from .packing import Bin, pack_rows, pack_trees
from .prefix_probe import choose_pass
from .throughput import Work
from .trees import lay_out

POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = {"float32": 1e-4, "bfloat16": 3e-2}
ELASTIC_ROPES = ("dynamic", "longrope")
# On the CPU a bin of trees is to stay in the caches, while rows need many for few long calls.
BIN_TOKENS = {"cuda": 16384, "cpu": 1536}
ROW_TOKENS = {"cuda": 16384, "cpu": 2048}
# Longest sequence by default of a model that knows longer ones: the paper's.
DEFAULT_LENGTH = 4096
Collect = Callable[[], np.ndarray]


class TorchBackbone:
    """A transformers base model: no language-model head, no stack of hidden states, no cache.

    ``causal`` is measured, not believed: a changed last token must not move the states before it.
    ``sharing`` is measured too: a causal model computes shared prefixes once if that gives what
    separate passes give, and ``note`` says which way was taken and why, ``rounding`` how far apart
    both were, relatively. What the configuration leaves open is resolved in ``dtype``, ``pooling``
    and ``max_length``; ``dtype_reason`` says why that type. ``bin_tokens`` is the size of a forward
    pass, ``work`` counts what was computed. Rows, where nothing is shared, are padded on the right
    by default.
    """

    def __init__(
        self,
        directory: Path,
        config: BackboneConfig,
        *,
        device: str = "auto",
        bin_tokens: int | None = None,
        padding_side: str = "right",
        share: bool = True,
    ) -> None:
        self.device = pick_device(device)
        torch.set_num_threads(min(torch.get_num_threads(), available_cores()))
        self.dtype, self.dtype_reason = pick_dtype(config.dtype, directory, self.device)
        self.padding_side = padding_side
        self.model = load_model(AutoModel, directory, self.dtype).to(self.device)
        self.max_length, self._first_position = self._positions(config)
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.causal = self._measure_causality()
        natural = "last" if self.causal else "mean"
        self.pooling = natural if config.pooling == "auto" else config.pooling
        if self.pooling == "last" and not self.causal:
            raise ConfigError(
                f"backbone.pooling: {config.name} reads in both directions, its last token has no "
                "special meaning; use mean or cls"
            )
        self.work = Work()
        self._trees = None
        self.rounding = 0.0
        self.note = "prefixes are not shared: the read-out needs the whole sequence"
        if self.pooling == "last" and not share:
            self.note = "prefixes are not shared, as asked"
        elif self.pooling == "last":
            on_gpu = self.device.type == "cuda"
            self._trees, self.note, self.rounding = choose_pass(
                self.model,
                self.max_length,
                fixed=(bin_tokens or BIN_TOKENS["cuda"]) if on_gpu else None,
                compiler="inductor" if on_gpu else None,
            )
        defaults = BIN_TOKENS if self.sharing else ROW_TOKENS
        self.bin_tokens = bin_tokens or defaults[self.device.type]

    @property
    def sharing(self) -> bool:
        """Whether one pass computes a prefix once for all sequences that begin with it."""
        return self._trees is not None

    def pack(self, sequences: Sequence[np.ndarray], bin_tokens: int) -> list[Bin]:
        """Forward passes of a bounded size over distinct sequences, for this model."""
        if self.sharing:
            return pack_trees(sequences, bin_tokens)
        return pack_rows(sequences, bin_tokens, causal=self.pooling == "last")

    def vectors(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (n, width) of n distinct sequences, in one forward pass."""
        return self.submit(sequences)()

    def submit(self, sequences: Sequence[np.ndarray]) -> Collect:
        """Start a forward pass; what it returns waits for the vectors (n, width).

        On CUDA the call returns while the device still works.
        """
        if self._trees is not None:
            layout = lay_out(sequences)
            self.work.add_tree(layout)
            return self._read_back(self._trees.states(layout))
        return self._read_back(self._rows(sequences))

    def alone(self, ids: np.ndarray) -> np.ndarray:
        """The vector (width,) of one sequence by the model's own attention, unpadded."""
        if self._trees is None:
            return self.vectors([ids])[0]
        self._trees.deactivate()
        try:
            return self._read_back(self._rows([ids]))()[0]
        finally:
            self._trees.activate()

    def _rows(self, sequences: Sequence[np.ndarray]) -> Tensor:
        """Vectors of padded rows; with a causal model a prefix is read from a longer row."""
        hosts, row_of = _host_rows(sequences, causal=self.pooling == "last")
        for place in hosts:
            self.work.add_row(len(sequences[place]), causal=self.causal)
        ids, mask, starts = collate([sequences[place] for place in hosts], self.padding_side)
        states = self._states(ids, mask)
        if self.pooling == "last":
            ends = starts[row_of] + np.array([len(ids) for ids in sequences]) - 1
            return states[row_of.tolist(), ends.tolist()]
        if self.pooling == "cls":
            return states[row_of.tolist(), starts[row_of].tolist()]
        weights = torch.from_numpy(mask).to(self.device, torch.float32)
        means = torch.einsum("bsd,bs->bd", states.float(), weights) / weights.sum(1)[:, None]
        return means[row_of.tolist()]

    def _read_back(self, states: Tensor) -> Collect:
        states = states.to(DTYPES[self.dtype]).contiguous()
        if self.device.type != "cuda":
            return lambda: to_numpy(states)
        host = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
        host.copy_(states, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def collect() -> np.ndarray:
            arrived.synchronize()
            return to_numpy(host).copy()

        return collect

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

    def _positions(self, config: BackboneConfig) -> tuple[int, int]:
        """Longest sequence in tokens and number of the first position.

        Refuses a ``max_length`` beyond what positions mean; auto takes what the model knows.
        """
        table = learned_positions(self.model)
        # RoBERTa counts from behind its padding id.
        first = table.padding_idx + 1 if table is not None and table.padding_idx is not None else 0
        known = None if table is None else table.num_embeddings - first
        inner = self.model.config.get_text_config()
        reach = elastic_reach(inner)
        if config.max_length == "auto":
            trained = getattr(inner, "max_position_embeddings", None)
            return min(filter(None, (DEFAULT_LENGTH, known, reach, trained))), first
        if reach is not None and config.max_length > reach:
            raise ConfigError(
                f"backbone.max_length: {config.name} stretches its rotary positions when a longer "
                f"sequence than {reach} tokens is in the same pass, so a vector would depend on "
                f"its neighbours; expected {reach} or less, found {config.max_length}"
            )
        if known is not None and config.max_length > known:
            raise ConfigError(
                f"backbone.max_length: {config.name} knows {known} positions, found "
                f"{config.max_length}; lower it, and see backbone.overlong for what happens to "
                "longer rows"
            )
        return config.max_length, first

    def _measure_causality(self) -> bool:
        self.causal = False
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        first = np.arange(1, 9, dtype=np.int64) % vocabulary
        second = first.copy()
        second[-1] = (second[-1] + 1) % vocabulary
        mask = np.ones((1, 8), np.int64)
        before = self._states(first[None], mask)[0, :-1].double()
        after = self._states(second[None], mask)[0, :-1].double()
        # Other experts may be batched together in a mixture of experts: equal up to rounding.
        return bool((after - before).norm() <= ROUNDING[self.dtype] * before.norm())


def _host_rows(sequences: Sequence[np.ndarray], *, causal: bool) -> tuple[list[int], np.ndarray]:
    """Sequences that need a row of their own, and for every sequence the row it is read from."""
    (rows,) = pack_rows(sequences, 1 << 62, causal=causal)
    hosts: list[int] = []
    row_of = np.zeros(len(sequences), np.int64)
    for place in rows.members:
        ids = sequences[place]
        longer = sequences[hosts[-1]] if hosts else ids[:0]
        if not (causal and len(longer) > len(ids) and (longer[: len(ids)] == ids).all()):
            hosts.append(place)
        row_of[place] = len(hosts) - 1
    return hosts, row_of


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


def load_model(auto_class: Any, directory: Path, dtype: str) -> Any:
    """Load safetensors weights from a local directory in a type, frozen."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, report = auto_class.from_pretrained(
            directory,
            dtype=DTYPES[dtype],
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
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        # Older versions of transformers run SDPA by default here, which leaves out the capping.
        model.set_attn_implementation("eager")
    return model.eval().requires_grad_(False)


def learned_positions(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The table of learned absolute positions, None for rotary and relative ones."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in POSITION_TABLES:
            return module
    return None


def elastic_reach(config: Any) -> int | None:
    """Tokens up to which rotary positions do not depend on the length of a pass, None if never.

    transformers picks the frequencies of "dynamic" and "longrope" by the longest position there is.
    """
    settings = getattr(config, "rope_parameters", None) or {}
    # One set for all layers, or one per kind of layer.
    sets = settings.values() if all(isinstance(v, dict) for v in settings.values()) else [settings]
    reaches = [
        int(
            found.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or config.max_position_embeddings
        )
        for found in sets
        if found.get("rope_type") in ELASTIC_ROPES
    ]
    return min(reaches, default=None)


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
