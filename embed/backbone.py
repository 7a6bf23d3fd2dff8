"""The frozen backbone: from token sequences to one vector each."""

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
# Relative change of earlier states that counts as rounding when a later token changes.
CAUSALITY_TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
# Kinds of rotary embeddings whose frequencies depend on the longest position of a pass.
LENGTH_DEPENDENT_ROPES = ("dynamic", "longrope")
# Tokens of a forward pass. On the CPU a bin of trees should fit into the caches, whereas rows gain
# from longer matrix products.
BIN_TOKENS = {"cuda": 16384, "cpu": 1536}
ROW_TOKENS = {"cuda": 16384, "cpu": 2048}
# Default maximum for models with longer contexts, as in the paper.
DEFAULT_LENGTH = 4096
# Waits for the vectors (n, D) of a pass.
Collect = Callable[[], np.ndarray]


class TorchBackbone:
    """A transformers base model without language-model head, returned hidden states or KV cache.

    Whether the model is causal, and whether prefix sharing gives the same vectors as separate
    passes, is measured when the model is loaded.

    Args:
        directory: Local directory of the model.
        config: Settings; "auto" values are resolved here.
        device: "auto", "cpu" or "cuda".
        bin_tokens: Tokens of a forward pass; None chooses by device.
        padding_side: "right" or "left", for rows, which are used where no prefixes are shared.
        share: Whether prefixes may be shared.

    Attributes:
        device: The torch device.
        dtype: "float32" or "bfloat16"; ``dtype_reason`` says why.
        model: The transformers model.
        max_length: Longest sequence in tokens.
        width: Size D of a vector.
        causal: Whether a token's state is independent of later tokens.
        pooling: "last", "mean" or "cls".
        note: Whether prefixes are shared and why not, for the user.
        probe_error: Largest relative difference between shared and separate passes in the probe.
        bin_tokens: Tokens of a forward pass.
        work: What has been computed so far.

    Raises:
        ConfigError: The model cannot be loaded, or does not support the settings.
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
        self.max_length, self._first_position = self._position_limits(config)
        self.width = int(self.model.config.get_text_config().hidden_size)
        self.causal = self._measure_causality()
        default_pooling = "last" if self.causal else "mean"
        self.pooling = default_pooling if config.pooling == "auto" else config.pooling
        if self.pooling == "last" and not self.causal:
            raise ConfigError(
                f"backbone.pooling: {config.name} reads in both directions, its last token has no "
                "special meaning; use mean or cls"
            )
        self.work = Work()
        self._tree_pass = None
        self.probe_error = 0.0
        self.note = "prefixes are not shared: the read-out needs the whole sequence"
        if self.pooling == "last" and not share:
            self.note = "prefixes are not shared, as asked"
        elif self.pooling == "last":
            on_gpu = self.device.type == "cuda"
            # On CUDA bins have one size, so that the layers are compiled for one shape only.
            self._tree_pass, self.note, self.probe_error = choose_pass(
                self.model,
                self.max_length,
                fixed_tokens=(bin_tokens or BIN_TOKENS["cuda"]) if on_gpu else None,
                compiler="inductor" if on_gpu else None,
            )
        defaults = BIN_TOKENS if self.sharing else ROW_TOKENS
        self.bin_tokens = bin_tokens or defaults[self.device.type]

    @property
    def sharing(self) -> bool:
        """Whether a pass computes each shared prefix only once."""
        return self._tree_pass is not None

    def pack(self, sequences: Sequence[np.ndarray], bin_tokens: int) -> list[Bin]:
        """Pack distinct sequences into forward passes of at most ``bin_tokens``, for this model."""
        if self.sharing:
            return pack_trees(sequences, bin_tokens)
        return pack_rows(sequences, bin_tokens, causal=self.pooling == "last")

    def vectors(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors (n, D) of n distinct, non-empty sequences (int32), in one forward pass."""
        return self.submit(sequences)()

    def submit(self, sequences: Sequence[np.ndarray]) -> Collect:
        """Start a forward pass; call the result to wait for the vectors (n, D).

        On CUDA this returns before the device has finished.
        """
        if self._tree_pass is not None:
            layout = lay_out(sequences)
            self.work.add_tree(layout)
            return self._read_back(self._tree_pass.states(layout))
        return self._read_back(self._rows(sequences))

    def reference_vector(self, ids: np.ndarray) -> np.ndarray:
        """The vector (D,) of one sequence, computed separately with the model's own attention."""
        if self._tree_pass is None:
            return self.vectors([ids])[0]
        self._tree_pass.deactivate()
        try:
            return self._read_back(self._rows([ids]))()[0]
        finally:
            self._tree_pass.activate()

    def _rows(self, sequences: Sequence[np.ndarray]) -> Tensor:
        """Pooled states (n, D) from a pass over padded rows.

        With last-token pooling a sequence that is a prefix of another is read from its row.
        """
        hosts, row_of = _host_rows(sequences, causal=self.pooling == "last")
        for index in hosts:
            self.work.add_row(len(sequences[index]), causal=self.causal)
        ids, mask, starts = collate([sequences[index] for index in hosts], self.padding_side)
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
        """Start the copy to the host; it ends when the result is called."""
        states = states.to(DTYPES[self.dtype]).contiguous()
        if self.device.type != "cuda":
            return lambda: to_numpy(states)
        host = torch.empty(states.shape, dtype=states.dtype, pin_memory=True)
        host.copy_(states, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def collect() -> np.ndarray:
            copied.synchronize()
            return to_numpy(host).copy()

        return collect

    @torch.inference_mode()
    def _states(self, ids: np.ndarray, mask: np.ndarray) -> Tensor:
        """Last hidden states (B, S, D) of padded rows; ``ids`` and ``mask`` are (B, S) int64."""
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(self.device)}
        if self.padding_side == "left":
            positions = np.maximum(mask.cumsum(axis=1) - 1, 0) + self._first_position
            inputs["position_ids"] = torch.from_numpy(positions).to(self.device)
        # With right padding a causal model needs no mask: padding comes after every real token.
        if not (self.causal and self.padding_side == "right"):
            inputs["attention_mask"] = torch.from_numpy(mask).to(self.device)
        if self.causal:
            inputs["use_cache"] = False
        return self.model(**inputs).last_hidden_state

    def _position_limits(self, config: BackboneConfig) -> tuple[int, int]:
        """The longest sequence in tokens, and the position id of the first token.

        Refuses a ``max_length`` that the model's positions do not support; "auto" takes the
        longest one that they do, up to ``DEFAULT_LENGTH``.
        """
        table = learned_positions(self.model)
        # RoBERTa's positions start after its padding id.
        first = table.padding_idx + 1 if table is not None and table.padding_idx is not None else 0
        learned = None if table is None else table.num_embeddings - first
        text_config = self.model.config.get_text_config()
        stable = stable_rope_length(text_config)
        if config.max_length == "auto":
            trained = getattr(text_config, "max_position_embeddings", None)
            return min(filter(None, (DEFAULT_LENGTH, learned, stable, trained))), first
        if stable is not None and config.max_length > stable:
            raise ConfigError(
                f"backbone.max_length: {config.name} stretches its rotary positions when a longer "
                f"sequence than {stable} tokens is in the same pass, so a vector would depend on "
                f"its neighbours; expected {stable} or less, found {config.max_length}"
            )
        if learned is not None and config.max_length > learned:
            raise ConfigError(
                f"backbone.max_length: {config.name} knows {learned} positions, found "
                f"{config.max_length}; lower it, and see backbone.overlong for what happens to "
                "longer rows"
            )
        return config.max_length, first

    def _measure_causality(self) -> bool:
        """Whether changing the last token leaves the states before it unchanged."""
        self.causal = False  # so that the passes below get a mask
        vocabulary = int(self.model.config.get_text_config().vocab_size)
        first = np.arange(1, 9, dtype=np.int64) % vocabulary
        second = first.copy()
        second[-1] = (second[-1] + 1) % vocabulary
        mask = np.ones((1, 8), np.int64)
        before = self._states(first[None], mask)[0, :-1].double()
        after = self._states(second[None], mask)[0, :-1].double()
        # In a mixture of experts the change may regroup tokens, so states are equal up to rounding.
        return bool((after - before).norm() <= CAUSALITY_TOLERANCE[self.dtype] * before.norm())


def _host_rows(sequences: Sequence[np.ndarray], *, causal: bool) -> tuple[list[int], np.ndarray]:
    """Indices of the sequences that get a row of their own, and (n,) the row of each sequence."""
    (rows,) = pack_rows(sequences, 1 << 62, causal=causal)
    hosts: list[int] = []
    row_of = np.zeros(len(sequences), np.int64)
    # One bin without a limit lists every sequence directly after the longer row that contains it.
    for index in rows.members:
        ids = sequences[index]
        longer = sequences[hosts[-1]] if hosts else ids[:0]
        if not (causal and len(longer) > len(ids) and (longer[: len(ids)] == ids).all()):
            hosts.append(index)
        row_of[index] = len(hosts) - 1
    return hosts, row_of


def collate(
    sequences: Sequence[np.ndarray], padding_side: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pad B sequences to the longest of them, S tokens.

    The padding id is 0. Its value does not matter: padding is masked, or comes after the read-out.

    Returns:
        Ids (B, S), attention mask (B, S) and the column of each first token (B,), all int64.

    Example:
        >>> ids, mask, starts = collate([np.array([5, 6]), np.array([7])], "left")
        >>> ids.tolist(), mask.tolist(), starts.tolist()
        ([[5, 6], [0, 7]], [[1, 1], [0, 1]], [0, 1])
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
    """Load a frozen model from safetensors weights in a local directory.

    Args:
        auto_class: A transformers auto class, such as ``AutoModel``.
        directory: Directory of the model.
        dtype: "float32" or "bfloat16".

    Raises:
        ConfigError: The model cannot be loaded, or weights are missing.
    """
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
        # Older versions of transformers default to SDPA here, which ignores soft-capping.
        model.set_attn_implementation("eager")
    return model.eval().requires_grad_(False)


def learned_positions(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The model's table of learned absolute positions, or None if it has none."""
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and last in POSITION_TABLES:
            return module
    return None


def stable_rope_length(config: Any) -> int | None:
    """Tokens up to which rotary positions do not depend on the other sequences of a pass.

    None if they never do. For "dynamic" and "longrope" transformers chooses the frequencies by the
    longest position in the pass, so beyond this length a vector would depend on its neighbours.
    """
    settings = getattr(config, "rope_parameters", None) or {}
    # One set of parameters for all layers, or one per kind of layer.
    sets = settings.values() if all(isinstance(v, dict) for v in settings.values()) else [settings]
    lengths = [
        int(
            parameters.get("original_max_position_embeddings")
            or getattr(config, "original_max_position_embeddings", None)
            or config.max_position_embeddings
        )
        for parameters in sets
        if parameters.get("rope_type") in LENGTH_DEPENDENT_ROPES
    ]
    return min(lengths, default=None)


def pick_device(device: str) -> torch.device:
    """The torch device for "auto" (CUDA if there is one), "cpu" or "cuda".

    Raises ``ConfigError`` if CUDA is requested but not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("embed.device: cuda asked for, but torch sees no CUDA device; use cpu")
    return torch.device(device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Copy a tensor to the host in the same dtype; bfloat16 becomes that of ml_dtypes."""
    tensor = tensor.contiguous().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
