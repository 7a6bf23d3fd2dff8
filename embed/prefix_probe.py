"""Decide whether a model may share prefixes, by comparing a shared pass with separate ones.

The probe runs when a model is loaded, in the dtype and on the device of the run. A shared pass may
differ by a few times as much as two ordinary passes of different shapes do.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .tree_pass import TreePass
from .trees import lay_out

NOISE_FACTOR = 4.0
# Lower bounds of the noise, where both passes happen to agree. Relative L2 norm.
SMALLEST_NOISE = {torch.float32: 2.5e-6, torch.bfloat16: 4e-3}
# Compiled layers round to bfloat16 less often than the model's own, which changes every state.
COMPILED_NOISE = SMALLEST_NOISE | {torch.bfloat16: 1.6e-2}


class PassChoice(NamedTuple):
    """Result of the probe.

    Attributes:
        tree_pass: The active pass; None if prefixes cannot be shared.
        note: Whether prefixes are shared, and why not, for the user.
        error: Largest relative difference of its states from those of separate passes.
    """

    tree_pass: TreePass | None
    note: str
    error: float


def choose_pass(
    model: Any, max_length: int, *, fixed_tokens: int | None = None, compiler: str | None = None
) -> PassChoice:
    """Activate the fastest way to share prefixes that reproduces the model's own states.

    The candidates are tried in this order: pruned and compiled, pruned, compiled, neither.

    Args:
        model: A causal transformers base model.
        max_length: Longest sequence of the run, in tokens.
        fixed_tokens: Size to which bins are padded, for compiled layers.
        compiler: Backend of torch.compile; None does not compile.
    """
    problem = uncompiled = ""
    candidates = [(prunes, backend) for prunes in (True, False) for backend in (compiler, None)]
    for prunes, backend in dict.fromkeys(candidates):  # without duplicates, in order
        candidate = TreePass(model, prunes=prunes, fixed_tokens=fixed_tokens, compiler=backend)
        problem, error = _check(candidate, max_length)
        if not problem:
            note = "" if prunes else "; its last layer is computed at every token"
            note += uncompiled if backend is None else ""
            return PassChoice(candidate, f"prefixes are shared{note}", error)
        if backend is not None:
            uncompiled = f"; its layers are not compiled: {problem}"
        _restore(candidate)
    note = f"prefixes are not shared, every sequence has a row of its own: {problem}"
    return PassChoice(None, note, 0.0)


def probe_sequences(vocabulary: int, max_length: int) -> list[np.ndarray]:
    """Sequences to probe with: two prompts with a common header, three responses, one unrelated."""
    rng = np.random.default_rng(20)
    scale = min(1.0, max_length / 80)
    header, first, second, *responses, unrelated = (
        rng.integers(0, vocabulary, max(2, int(size * scale))).astype(np.int32)
        for size in (5, 40, 19, 11, 24, 7, 30)
    )
    prompts = [np.concatenate([header, first]), np.concatenate([header, second])]
    return [
        *prompts,
        *(np.concatenate([prompts[0], response]) for response in responses[:2]),
        np.concatenate([prompts[1], responses[2]]),
        unrelated,
    ]


def _check(candidate: TreePass, max_length: int) -> tuple[str, float]:
    """Activate a candidate and compare it with separate passes.

    Returns the problem, which is empty if there is none, and the largest relative error.
    """
    model = candidate.model
    vocabulary = int(model.config.get_text_config().vocab_size)
    sequences = probe_sequences(vocabulary, max_length)
    expected, noise = _separate_states(model, sequences, max_length)
    try:
        candidate.activate()
        states = candidate.states(lay_out(sequences))
    # Whatever a model family or a kernel raises here, the next candidate may still work.
    except Exception as error:
        return f"{type(model).__name__} failed with {type(error).__name__}: {error}", 0.0
    layers = int(model.config.get_text_config().num_hidden_layers)
    if candidate.calls != layers + candidate.prunes:  # a pruned layer calls it twice
        return f"{type(model).__name__} has layers without exchangeable attention", 0.0
    error = _largest_error(states, expected)
    smallest = SMALLEST_NOISE if candidate.compiler is None else COMPILED_NOISE
    limit = NOISE_FACTOR * max(noise, smallest[expected.dtype])
    if not error <= limit:
        return (
            f"{type(model).__name__} gives other states when it shares (relative error "
            f"{error:.1e}, {limit:.1e} allowed)"
        ), error
    # The probe may be shorter than the window, so its states alone would not reveal this.
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window < max_length and window not in candidate.windows and _slides(model):
        return f"{type(model).__name__} does not hand its sliding window to its attention", error
    return "", error


def _slides(model: Any) -> bool:
    """Whether any layer uses the sliding window of the configuration."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return kinds is None or any("sliding" in kind for kind in kinds)


def _restore(candidate: TreePass) -> None:
    with suppress(ValueError):  # a model without a list of layers was not changed
        candidate.deactivate()


@torch.inference_mode()
def _separate_states(
    model: Any, sequences: list[np.ndarray], max_length: int
) -> tuple[Tensor, float]:
    """States (n, D) of separate passes, and the largest error of the same rows in batches of two.

    The other row is longer, so that the first one is padded.
    """
    expected = torch.stack([_last_state(model, [ids])[0] for ids in sequences])
    longer = [np.resize(ids, min(len(ids) + 9, max_length)) for ids in sequences]
    paired = torch.stack(
        [_last_state(model, [ids, other])[0] for ids, other in zip(sequences, longer, strict=True)]
    )
    return expected, _largest_error(paired, expected)


def _last_state(model: Any, rows: list[np.ndarray]) -> Tensor:
    """States (rows, D) of right-padded rows, at the index of the first row's last token."""
    padded = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    ids = torch.from_numpy(padded).to(model.device)
    return model(input_ids=ids, use_cache=False).last_hidden_state[:, len(rows[0]) - 1]


def _largest_error(states: Tensor, expected: Tensor) -> float:
    """Largest relative L2 error of a row."""
    difference = (states.double() - expected.double()).norm(dim=1)
    return float((difference / expected.double().norm(dim=1)).max())
