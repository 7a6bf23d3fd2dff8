"""Make a transformers decoder compute prefix trees, whatever its family.

No model code is rewritten; two functions are replaced:

- The attention function, through transformers' registry, so that a token sees its own branch only.
- The last layer's ``forward``. It runs once up to its attention, for the keys and values of all
  tokens, and a second time for the read-outs alone. Its query projection, its MLP and the final
  norm are thus computed only where the result is used.

Families that bypass the registry, or that compute something else this way, are caught by the probe
in ``prefix_probe``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakMethod

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface

from . import attention
from .attention import AttentionOptions
from .trees import Layout, pad_layout

_pass_ids = count()


class _KeysReady(Exception):
    """Ends the last layer's first run: its keys and values are known, the rest is not needed."""


@dataclass
class _State:
    """State of the bin in progress, read by the attention function.

    Attributes:
        layout: The bin.
        keys: Keys and values of the last layer, once its first run has reached attention.
        stop_at_keys: Whether the last layer's first run is in progress.
        indices: Varlen index of the runs (False) and of the branches (True), for all layers.
        masks: Masks for all layers.
        blocks: FlexAttention block mask per sliding window, for all layers with that window.
    """

    layout: Layout
    keys: tuple[Tensor, Tensor] | None = None
    stop_at_keys: bool = False
    indices: dict[bool, attention.VarlenIndex] = field(default_factory=dict)
    masks: attention.MaskCache = field(default_factory=attention.MaskCache)
    blocks: dict[int | None, Any] = field(default_factory=dict)


class TreePass:
    """Forward passes with prefix sharing through one loaded decoder.

    Between ``activate`` and ``deactivate`` the model computes trees, and only through ``states``.

    Args:
        model: A causal transformers base model.
        prunes: Whether the last layer is computed at the read-outs only.
        fixed_tokens: Pad every bin to this many tokens, so that compiled layers see one shape.
        compiler: The torch.compile backend of the layers; None leaves them uncompiled.

    Attributes:
        calls: How often the model has called the attention function.
        windows: The sliding windows that the model has passed to it.
    """

    def __init__(
        self,
        model: Any,
        *,
        prunes: bool,
        fixed_tokens: int | None = None,
        compiler: str | None = None,
    ) -> None:
        self.model = model
        self.prunes = prunes
        self.fixed_tokens = fixed_tokens
        self.calls = 0
        self.windows: set[int] = set()
        self._name = f"micro_rm_trees_{next(_pass_ids)}"
        self._state: _State | None = None
        self._native = model.config._attn_implementation
        self.compiler = compiler
        # The registry lives as long as the process; a weak reference does not keep the model alive.
        method = WeakMethod(self._attend)

        def attend(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
            bound = method()
            assert bound is not None
            return bound(*arguments, **options)

        if compiler is not None:
            # The layout changes with every bin, so attention stays outside the compiled graphs.
            AttentionInterface.register(self._name, torch.compiler.disable(attend))
        else:
            AttentionInterface.register(self._name, attend)

    def activate(self) -> None:
        """Switch the model to trees.

        Raises ``ValueError`` or ``AttributeError`` if the model's family does not allow it.
        """
        layers = decoder_layers(self.model)
        self.model.set_attn_implementation(self._name)
        if self.prunes:
            # An instance attribute shadows the method, and deleting it restores the method.
            layers[-1].forward = self._pruned(layers[-1].forward)
        if self.compiler is not None:
            # The pruned last layer runs twice with different shapes and is left uncompiled.
            for layer in layers[: -1 if self.prunes else None]:
                layer.compile(backend=self.compiler, dynamic=self.fixed_tokens is None)

    def deactivate(self) -> None:
        """Restore the model's own attention and last layer."""
        for layer in decoder_layers(self.model):
            layer.__dict__.pop("forward", None)
            layer._compiled_call_impl = None
        self.model.set_attn_implementation(self._native)

    @torch.inference_mode()
    def states(self, layout: Layout) -> Tensor:
        """Final hidden states (n, D) at the read-outs of n sequences, on the model's device.

        On CUDA the call may return before the device has computed them.
        """
        if self.fixed_tokens is not None:
            layout = pad_layout(layout, self.fixed_tokens)
        self._state = _State(layout)
        try:
            out = self.model(
                input_ids=self._to_device(layout.token_ids.astype(np.int64))[None],
                position_ids=self._to_device(layout.positions)[None],
                use_cache=False,
            ).last_hidden_state[0]
        finally:
            self._state = None
        # A pruned last layer has returned the read-outs only.
        return out if self.prunes else out[self._to_device(layout.readouts)]

    def _to_device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.model.device.type == "cuda":
            # From pinned memory the copy does not wait for the device.
            return tensor.pin_memory().to(self.model.device, non_blocking=True)
        return tensor.to(self.model.device)

    def _attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        _mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_others: Any,
    ) -> tuple[Tensor, None]:
        """Attention with the signature of transformers' registry; its mask is ignored."""
        state = self._state
        assert state is not None
        self.calls += 1
        if sliding_window is not None:
            self.windows.add(sliding_window)
        if state.stop_at_keys:
            state.keys = (key, value)
            raise _KeysReady
        # Keys that are known already mean the second run of the pruned layer: the queries are the
        # read-outs, and so are the keys that the model has just computed for them.
        branches = state.keys is not None
        if state.keys is not None:
            key, value = state.keys
        options = AttentionOptions(scaling, sliding_window, softcap)
        return self._compute(query, key, value, state, branches, options), None

    def _compute(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        state: _State,
        branches: bool,
        options: AttentionOptions,
    ) -> Tensor:
        """Choose the fastest implementation that supports the device, dtype and options."""
        runs = state.layout.branches if branches else state.layout.runs
        if attention.varlen_supports(query.device, query.dtype, options):
            if branches not in state.indices:
                state.indices[branches] = attention.varlen_index(runs, query.device)
            return attention.by_varlen(query, key, value, state.indices[branches], options)
        # The block mask is over all tokens; read-outs alone are few enough for one call per run.
        if query.device.type == "cuda" and not branches:
            if options.window not in state.blocks:
                ends, positions = map(self._to_device, (state.layout.ends, state.layout.positions))
                state.blocks[options.window] = attention.block_mask(ends, positions, options.window)
            return attention.by_flex(query, key, value, state.blocks[options.window], options)
        return attention.by_run(query, key, value, runs, options, state.masks)

    def _pruned(self, forward: Any) -> Any:
        """Wrap the last layer's ``forward`` so that it returns states at the read-outs only."""

        def forward_readouts(hidden: Tensor, *arguments: Any, **options: Any) -> Any:
            state = self._state
            assert state is not None
            # First run: up to attention, which stores all keys and values and raises.
            state.stop_at_keys = True
            try:
                forward(hidden, *arguments, **options)
                raise RuntimeError("the last layer has no attention of the registered kind")
            except _KeysReady:
                pass
            finally:
                state.stop_at_keys = False
            # Second run: the read-outs only, with every per-token argument cut down to them.
            rows = self._to_device(state.layout.readouts)
            size = hidden.shape[1]
            return forward(
                hidden[:, rows],
                *(_select_rows(value, rows, size) for value in arguments),
                **{name: _select_rows(value, rows, size) for name, value in options.items()},
            )

        return forward_readouts


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The model's list of decoder layers, recognised by its length.

    Raises ``ValueError`` if the model has no such list, or several.
    """
    layers = model.config.get_text_config().num_hidden_layers
    lists = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers
    ]
    if len(lists) != 1:
        raise ValueError(f"found {len(lists)} lists of {layers} layers in {type(model).__name__}")
    return lists[0]


def _select_rows(value: Any, rows: Tensor, size: int) -> Any:
    """Index a layer's argument along its token dimension, if it has one.

    Families pass (1, T, ...) and (T,) tensors, nested in tuples for rotary embeddings; anything
    without a dimension of ``size`` tokens is returned unchanged.
    """
    if isinstance(value, tuple):
        return tuple(_select_rows(part, rows, size) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim >= 2 and value.shape[1] == size:
        return value[:, rows]
    if value.ndim == 1 and value.shape[0] == size:
        return value[rows]
    return value
