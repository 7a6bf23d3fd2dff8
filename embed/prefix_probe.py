"""Whether a model may share prefixes: a shared pass is compared with separate ones, at start-up.

The probe runs in the run's own type, on its own device. What a shared pass may differ by is a few
times what two ordinary passes of different shape differ by.
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
SMALLEST_NOISE = {torch.float32: 2.5e-6, torch.bfloat16: 4e-3}
# Compiled layers round to 16 bits less often than the model's own, which moves every state.
COMPILED_NOISE = SMALLEST_NOISE | {torch.bfloat16: 1.6e-2}


class Choice(NamedTuple):
    """The way to share that stood the test, None if none did, and what there is to say.

    ``error`` is the largest relative difference of its states from separate passes.
    """

    tree_pass: TreePass | None
    note: str
    error: float


def choose_pass(
    model: Any, max_length: int, *, fixed: int | None = None, compiler: str | None = None
) -> Choice:
    """The fastest way to share prefixes that gives this model's own states; leaves it active.

    Tried in this order: compiled and pruned, pruned, compiled, neither. The model must be causal.
    """
    problem = uncompiled = ""
    ways = [(prunes, backend) for prunes in (True, False) for backend in (compiler, None)]
    for prunes, backend in dict.fromkeys(ways):
        candidate = TreePass(model, prunes=prunes, fixed=fixed, compiler=backend)
        problem, error = _try(candidate, max_length)
        if not problem:
            note = "" if prunes else "; its last layer is computed at every token"
            note += uncompiled if backend is None else ""
            return Choice(candidate, f"prefixes are shared{note}", error)
        if backend is not None:
            uncompiled = f"; its layers are not compiled: {problem}"
        _restore(candidate)
    note = f"prefixes are not shared, every sequence has a row of its own: {problem}"
    return Choice(None, note, 0.0)


def probe_sequences(vocabulary: int, max_length: int) -> list[np.ndarray]:
    """Two prompts with a common header, three responses, and one sequence for itself."""
    random = np.random.default_rng(20)
    scale = min(1.0, max_length / 80)
    header, first, second, *responses, alone = (
        random.integers(0, vocabulary, max(2, int(size * scale))).astype(np.int32)
        for size in (5, 40, 19, 11, 24, 7, 30)
    )
    prompts = [np.concatenate([header, first]), np.concatenate([header, second])]
    return [
        *prompts,
        *(np.concatenate([prompts[0], response]) for response in responses[:2]),
        np.concatenate([prompts[1], responses[2]]),
        alone,
    ]


def _try(candidate: TreePass, max_length: int) -> tuple[str, float]:
    """What is wrong with a candidate, empty if nothing is, and its error; a good one is active."""
    model = candidate.model
    vocabulary = int(model.config.get_text_config().vocab_size)
    sequences = probe_sequences(vocabulary, max_length)
    expected, noise = _separate(model, sequences, max_length)
    try:
        candidate.activate()
        found = candidate.states(lay_out(sequences))
    # Whatever a family or a kernel raises here, the answer is another way, never a stop.
    except Exception as error:
        return f"{type(model).__name__} failed with {type(error).__name__}: {error}", 0.0
    layers = int(model.config.get_text_config().num_hidden_layers)
    if candidate.calls != layers + candidate.prunes:  # the pruned layer asks twice
        return f"{type(model).__name__} has layers without exchangeable attention", 0.0
    error = _largest_error(found, expected)
    smallest = SMALLEST_NOISE if candidate.compiler is None else COMPILED_NOISE
    limit = NOISE_FACTOR * max(noise, smallest[expected.dtype])
    if not error <= limit:
        return (
            f"{type(model).__name__} gives other states when it shares (relative error "
            f"{error:.1e}, {limit:.1e} allowed)"
        ), error
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and window < max_length and window not in candidate.windows and _slides(model):
        return f"{type(model).__name__} does not hand its sliding window to its attention", error
    return "", error


def _slides(model: Any) -> bool:
    """Whether any layer uses the window that the configuration names."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    return kinds is None or any("sliding" in kind for kind in kinds)


def _restore(candidate: TreePass) -> None:
    with suppress(ValueError):  # a model without a list of layers was never changed
        candidate.deactivate()


@torch.inference_mode()
def _separate(model: Any, sequences: list[np.ndarray], max_length: int) -> tuple[Tensor, float]:
    """States (n, D) of separate passes, and how far passes in rows of two are from them."""
    expected = torch.stack([_last_state(model, [ids])[0] for ids in sequences])
    longer = [np.resize(ids, min(len(ids) + 9, max_length)) for ids in sequences]
    paired = torch.stack(
        [_last_state(model, [ids, other])[0] for ids, other in zip(sequences, longer, strict=True)]
    )
    return expected, _largest_error(paired, expected)


def _last_state(model: Any, rows: list[np.ndarray]) -> Tensor:
    """States (rows, D) at the last token of the first row, for every row; right padding."""
    padded = np.zeros((len(rows), max(len(row) for row in rows)), np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    ids = torch.from_numpy(padded).to(model.device)
    return model(input_ids=ids, use_cache=False).last_hidden_state[:, len(rows[0]) - 1]


def _largest_error(found: Tensor, expected: Tensor) -> float:
    gap = (found.double() - expected.double()).norm(dim=1)
    return float((gap / expected.double().norm(dim=1)).max())
