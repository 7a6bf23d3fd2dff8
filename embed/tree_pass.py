"""A transformers decoder made to compute bins of trees, for any family that its attention serves.

Two things are exchanged, nothing is rewritten. The attention function, through transformers' own
registry, so that a token sees its branch only. And the last layer's ``forward``: it runs once up to
its attention, for the keys and values of all tokens, and then only for the read-outs, so that its
projections, its MLP and the final norm are computed where somebody looks.
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
from .attention import Scores
from .trees import Layout, filled

_numbers = count()


class _KeysKnown(Exception):
    """The last layer's keys and values are known; what follows in its first run is not needed."""


@dataclass
class _State:
    """What the attention function needs to know of the bin that is being computed."""

    layout: Layout
    keys: tuple[Tensor, Tensor] | None = None
    stop_at_keys: bool = False
    gathers: dict[bool, attention.Gather] = field(default_factory=dict)
    masks: attention.Masks = field(default_factory=attention.Masks)
    blocks: dict[int | None, Any] = field(default_factory=dict)


class TreePass:
    """Shared passes through one loaded decoder, while it is active.

    ``prunes`` says whether the last layer is computed at the read-outs only. ``calls`` counts how
    often the model has asked for attention, ``windows`` are the sliding windows that it named.
    ``fixed`` fills every bin up to that many tokens, so that layers compiled by ``compiler`` (a
    torch.compile backend) meet one shape.
    """

    def __init__(
        self, model: Any, *, prunes: bool, fixed: int | None = None, compiler: str | None = None
    ) -> None:
        self.model = model
        self.prunes = prunes
        self.fixed = fixed
        self.calls = 0
        self.windows: set[int] = set()
        self._name = f"micro_rm_trees_{next(_numbers)}"
        self._state: _State | None = None
        self._native = model.config._attn_implementation
        self.compiler = compiler
        # The registry lives as long as the process does; the model need not.
        method = WeakMethod(self._attend)

        def attend(*arguments: Any, **options: Any) -> tuple[Tensor, None]:
            bound = method()
            assert bound is not None
            return bound(*arguments, **options)

        if compiler is not None:
            # The layout changes with every bin: attention stays outside of the compiled graphs.
            AttentionInterface.register(self._name, torch.compiler.disable(attend))
        else:
            AttentionInterface.register(self._name, attend)

    def activate(self) -> None:
        """From now on the model computes trees.

        Raises ``ValueError`` or ``AttributeError`` if this family cannot be made to.
        """
        layers = decoder_layers(self.model)
        self.model.set_attn_implementation(self._name)
        if self.prunes:
            # An instance attribute hides the method, as hooks of other libraries do too.
            layers[-1].forward = self._pruned(layers[-1].forward)
        if self.compiler is not None:
            for layer in layers[: -1 if self.prunes else None]:
                layer.compile(backend=self.compiler, dynamic=self.fixed is None)

    def deactivate(self) -> None:
        """From now on the model computes what it always did."""
        for layer in decoder_layers(self.model):
            layer.__dict__.pop("forward", None)
            layer._compiled_call_impl = None
        self.model.set_attn_implementation(self._native)

    @torch.inference_mode()
    def states(self, layout: Layout) -> Tensor:
        """Final states (n, D) of the last token of each of n sequences, on the device."""
        if self.fixed is not None:
            layout = filled(layout, self.fixed)
        self._state = _State(layout)
        try:
            out = self.model(
                input_ids=self._to_device(layout.token_ids.astype(np.int64))[None],
                position_ids=self._to_device(layout.positions)[None],
                use_cache=False,
            ).last_hidden_state[0]
        finally:
            self._state = None
        return out if self.prunes else out[self._to_device(layout.readouts)]

    def _to_device(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.model.device.type == "cuda":
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
        state = self._state
        assert state is not None
        self.calls += 1
        if sliding_window is not None:
            self.windows.add(sliding_window)
        if state.stop_at_keys:
            state.keys = (key, value)
            raise _KeysKnown
        branches = state.keys is not None
        if state.keys is not None:
            key, value = state.keys
        how = Scores(scaling, sliding_window, softcap)
        return self._compute(query, key, value, state, branches, how), None

    def _compute(
        self, query: Tensor, key: Tensor, value: Tensor, state: _State, branches: bool, how: Scores
    ) -> Tensor:
        runs = state.layout.branches if branches else state.layout.runs
        if attention.varlen_serves(query.device, query.dtype, how):
            if branches not in state.gathers:
                state.gathers[branches] = attention.gather(runs, query.device)
            return attention.by_varlen(query, key, value, state.gathers[branches], how)
        if query.device.type == "cuda" and not branches:
            if how.window not in state.blocks:  # one for all layers
                ends, positions = map(self._to_device, (state.layout.ends, state.layout.positions))
                state.blocks[how.window] = attention.block_mask(ends, positions, how.window)
            return attention.by_flex(query, key, value, state.blocks[how.window], how)
        return attention.by_run(query, key, value, runs, how, state.masks)

    def _pruned(self, forward: Any) -> Any:
        def at_the_readouts(hidden: Tensor, *arguments: Any, **options: Any) -> Any:
            state = self._state
            assert state is not None
            state.stop_at_keys = True
            try:
                forward(hidden, *arguments, **options)
                raise RuntimeError("the last layer has no attention of the registered kind")
            except _KeysKnown:
                pass
            finally:
                state.stop_at_keys = False
            rows = self._to_device(state.layout.readouts)
            size = hidden.shape[1]
            return forward(
                hidden[:, rows],
                *(_rows_of(value, rows, size) for value in arguments),
                **{name: _rows_of(value, rows, size) for name, value in options.items()},
            )

        return at_the_readouts


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The list of the model's layers, found by its length.

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


def _rows_of(value: Any, rows: Tensor, size: int) -> Any:
    """What belongs to tokens (their second dimension, or only one, has ``size``), at some rows."""
    if isinstance(value, tuple):
        return tuple(_rows_of(part, rows, size) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.ndim >= 2 and value.shape[1] == size:
        return value[:, rows]
    if value.ndim == 1 and value.shape[0] == size:
        return value[rows]
    return value
