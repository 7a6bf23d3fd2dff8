"""Token sequences that begin alike, drawn or fixed, and what a model gives for each alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from micro_rm.embed.sources.pair import Message

Ids = tuple[int, ...]
# Few distinct ids make prefixes frequent; large ones span several bytes.
TOKENS = st.sampled_from([0, 1, 255, 256, 128_256])


def drawn(tokens: Sequence[int], longest: int, most: int) -> st.SearchStrategy[list[Ids]]:
    """Up to ``most`` distinct sequences of up to ``longest`` of these tokens."""
    ids = st.lists(st.sampled_from(tokens), min_size=1, max_size=longest).map(tuple)
    return st.lists(ids, min_size=1, max_size=most, unique=True)


@st.composite
def bushes(draw: st.DrawFn, longest: int = 10, most: int = 40) -> list[Ids]:
    """Distinct sequences, many behind one of two beginnings, some with all of their prefixes."""
    heads = draw(st.lists(st.lists(TOKENS, max_size=12).map(tuple), min_size=1, max_size=2))
    tails = st.lists(TOKENS, min_size=1, max_size=longest).map(tuple)
    sequences = [
        draw(st.sampled_from(heads)) + ids
        for ids in draw(st.lists(tails, min_size=1, max_size=most))
    ]
    for base in draw(st.lists(st.sampled_from(sequences), max_size=3)):
        sequences += [base[:stop] for stop in range(1, len(base))]
    sequences = list(dict.fromkeys(sequences))
    draw(st.randoms(use_true_random=False)).shuffle(sequences)
    return sequences


def arrays(sequences: Iterable[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(ids, np.int32) for ids in sequences]


def random_sequences(seed: int, number: int = 12) -> list[np.ndarray]:
    """Distinct sequences; every third one goes on where another one ends."""
    random = np.random.default_rng(seed)
    sequences = [
        random.integers(0, 200, size).astype(np.int32) for size in random.integers(2, 60, number)
    ]
    for index in range(2, number, 3):
        sequences[index] = np.concatenate([sequences[index - 1], sequences[index]])
    return sequences


def a_forest() -> list[np.ndarray]:
    """Two prompts behind one header with their responses, one sequence apart, a single token."""
    random = np.random.default_rng(4)
    header, one, two, apart = (
        random.integers(0, 200, size).astype(np.int32) for size in (6, 15, 11, 19)
    )
    prompts = [np.concatenate([header, prompt]) for prompt in (one, two)]
    replies = [random.integers(0, 200, size).astype(np.int32) for size in (14, 2, 8, 21, 1)]
    first = [np.concatenate([prompts[0], reply]) for reply in replies]
    second = [np.concatenate([prompts[1], reply]) for reply in replies[:2]]
    further = np.concatenate([first[0], replies[2]])
    return [*second, header, apart, *prompts, *first, further, apart[:1]]


@torch.inference_mode()
def own_states(model: Any, ids: np.ndarray) -> np.ndarray:
    """Last hidden states (T, D) that the model itself gives for one sequence alone."""
    return model(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0].numpy()


def separately(model: Any, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Last states (n, D) of n passes of one sequence each."""
    return np.array([own_states(model, ids)[-1] for ids in sequences])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative L2 error between the rows of two arrays."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    gap = np.linalg.norm(actual - expected, axis=-1)
    return float(np.max(gap / np.linalg.norm(expected, axis=-1)))


def talk(*turns: str) -> tuple[Message, ...]:
    """Turns of user and assistant in alternation."""
    return tuple(Message(("user", "assistant")[n % 2], turn) for n, turn in enumerate(turns))
