"""A population in feature space with known truth, behind the reading interface of a store.

K groups judge pairs of answers. Group k likes an answer by ``margin_scale * v_k . answer`` with a
planted unit direction ``v_k``, and its judgements follow Bradley-Terry. In units of one
coordinate's standard deviation:

* a prompt is ``u ~ N(0, I)``, and its first K coordinates decide who judges: group k with
  probability ``softmax(sharpness * u[:K])_k``, which is 1/K on average over prompts;
* an answer is ``N(0, I/2)``, so differences are ``N(0, I)`` and margins ``N(0, margin_scale^2)``;
* a context has a code per group, as long as a typical prompt (``sqrt(D)``) and without part in the
  first K coordinates. Codes are orthogonal, a wording lies at ``wording_spread`` code lengths from
  its own. The ctx view adds the wording to prompt and answers, where it cancels in differences.

Every kind of draw has its own random stream per split. More rows keep the first ones; the knobs of
groups, labels and contexts change no prompt and no answer, those of labels and contexts no group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, softmax

from ..cache.pairs import TEXT_COLUMNS, PairTable
from ..cache.schema import StoreError
from ..configs.simulator import SimulatorConfig

BOTH, TRAIN, TEST = 0, 1, 2
DIRECTIONS, CODES, WORDINGS, WORDING_OF, PROMPTS, ANSWERS, GROUPS, LABELS, FLIPS = range(9)
NO_CODE = 0  # the code of vectors without a context, all zeros


class SimulatedStore:
    """Vectors in memory, read as from a ``FeatureStore``: each is one of V bases plus a code.

    Sharing the bases between views keeps 23,500 pairs of width 3072 below one gigabyte.
    """

    def __init__(
        self, base_VxD: np.ndarray, code_WxD: np.ndarray, base_of: np.ndarray, code_of: np.ndarray
    ) -> None:
        self.path = Path("simulator")
        self._base_VxD, self._code_WxD = base_VxD, code_WxD
        self._base_of, self._code_of = base_of, code_of

    def __len__(self) -> int:
        return self._base_of.size

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self._base_VxD.shape[1]

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of global rows, in the order asked for, as float32 ``(len(rows), width)``.

        Raises ``StoreError`` for a row that does not exist.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise StoreError(
                f"{self.path}: asked for rows {rows.min()}..{rows.max()}, it has {len(self)}"
            )
        out = self._base_VxD[self._base_of[rows]]
        code = self._code_of[rows]
        for number in np.unique(code[code != NO_CODE]):
            out[code == number] += self._code_WxD[number]
        return out

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The same: these vectors are made, not read."""
        return self.vectors(rows)


@dataclass(frozen=True)
class Simulation:
    """A store, its pair table (training rows, then test rows) and what no method may see.

    Arrays follow the rows of the table. ``directions_DxK`` has unit columns; ``group_N`` judged
    the row; ``membership_NxK`` is the probability of every group given the prompt; ``margin_NxK``
    is every group's true ``r_k(chosen) - r_k(rejected)`` in logits, in the observed orientation;
    ``flipped_N`` marks labels that noise reversed.
    """

    config: SimulatorConfig
    store: SimulatedStore
    table: PairTable
    directions_DxK: np.ndarray
    group_N: np.ndarray
    membership_NxK: np.ndarray
    margin_NxK: np.ndarray
    flipped_N: np.ndarray


class Floors(NamedTuple):
    """Expected loss with the directions known, and of the group what the field says.

    * ``known_group_N``: the group itself, ``sum_k gamma_k h(p_k)``;
    * ``perfect_router_N``: its probabilities given the prompt, ``h(sum_k gamma_k p_k)``, which
      no mixture under a router of plain prompts gets below (the group is latent);
    * ``average_N``: nothing; all groups weigh 1/K, as they do on average over prompts. Static
      mixtures and single rewards stay above the mean of this.
    """

    known_group_N: np.ndarray
    perfect_router_N: np.ndarray
    average_N: np.ndarray


def simulate(config: SimulatorConfig, name: str) -> Simulation:
    """Draw the population that the configuration describes, as a data set called ``name``."""
    number_N, is_test_N = _numbers(config)
    count, groups = number_N.size, config.directions
    base_VxD, prompt_N, first_N = _bases(config)
    deciding_NxK = base_VxD[prompt_N, :groups].astype(np.float64)
    membership_NxK = softmax(config.sharpness * deciding_NxK, axis=1)
    below_NxK = np.cumsum(membership_NxK, axis=1)[:, :-1]
    group_N = (below_NxK <= _uniform(config, GROUPS)[:, None]).sum(axis=1)

    directions_DxK = _directions(config)
    reward_MxK = (base_VxD[first_N[0] :] @ directions_DxK.astype(np.float32)).astype(np.float64)
    margin_NxK = config.margin_scale * (reward_MxK[0::2] - reward_MxK[1::2])
    flipped_N = _uniform(config, FLIPS) < config.noise
    prefers_first_N = _uniform(config, LABELS) < expit(margin_NxK[np.arange(count), group_N])
    wins_N = prefers_first_N ^ flipped_N

    # Wordings are numbered through, from training to test.
    choices_N = np.where(is_test_N, config.test_wordings, config.train_wordings)
    wording_N = (_uniform(config, WORDING_OF) * choices_N).astype(np.int64)
    wording_N += config.train_wordings * is_test_N
    code_N = (NO_CODE + 1 + wording_N * groups + group_N) * config.contexts
    role_rows = {"prompt": prompt_N, "chosen": first_N + ~wins_N, "rejected": first_N + wins_N}
    store, rows = _layout(base_VxD, _codes(config), role_rows, code_N)
    table = PairTable(
        name=name,
        request=hashlib.sha256(repr(config).encode()).hexdigest()[:32],
        settings={"backbone": {}, "form": "header"},
        rows=rows,
        text=_text(config, group_N, wording_N, wins_N),
        source_row=np.arange(count),
        pool=~is_test_N,
        margin=np.full(count, np.nan, np.float32),
        tokens={role: np.ones(count, np.int64) for role in ("chosen", "rejected")},
        account={"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0},
    )
    oriented_NxK = np.where(wins_N, 1.0, -1.0)[:, None] * margin_NxK
    return Simulation(
        config, store, table, directions_DxK, group_N, membership_NxK, oriented_NxK, flipped_N
    )


def win_probability(simulation: Simulation, rows: np.ndarray) -> np.ndarray:
    """(n, K) probability that every group gives the observed label, label noise included."""
    noise = simulation.config.noise
    return noise + (1 - 2 * noise) * expit(simulation.margin_NxK[rows])


def floors(simulation: Simulation, rows: np.ndarray) -> Floors:
    """Losses of the given rows that nobody can beat who knows no more: each (n,), in nats.

    They are expectations over group and label given prompt and answers, so they do not depend on
    the labels that happened to be drawn, and they ascend row by row. Under label noise they are
    out of reach of heads, which are Bradley-Terry models without it.
    """
    membership_NxK = simulation.membership_NxK[rows]
    win_NxK = win_probability(simulation, rows)
    win_N = np.sum(membership_NxK * win_NxK, axis=1)
    return Floors(
        known_group_N=np.sum(membership_NxK * _cross_entropy(win_NxK, win_NxK), axis=1),
        perfect_router_N=_cross_entropy(win_N, win_N),
        average_N=_cross_entropy(win_N, win_NxK.mean(axis=1)),
    )


def _counts(config: SimulatorConfig) -> dict[int, int]:
    return {TRAIN: config.pairs, TEST: config.test_pairs}


def _numbers(config: SimulatorConfig) -> tuple[np.ndarray, np.ndarray]:
    """Per row: its number within its split, and whether that is the test split."""
    row_N = np.arange(config.pairs + config.test_pairs)
    is_test_N = row_N >= config.pairs
    return row_N - config.pairs * is_test_N, is_test_N


def _stream(config: SimulatorConfig, split: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, split, stream))


def _uniform(config: SimulatorConfig, stream: int) -> np.ndarray:
    """(N,) numbers in [0, 1)."""
    return np.concatenate(
        [_stream(config, split, stream).random(count) for split, count in _counts(config).items()]
    )


def _bases(config: SimulatorConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(V, D) float32 vectors, and where each row has its prompt and the first of its two answers.

    Base 0 is the zero vector, then come the prompts, then the answers.
    """
    number_N, is_test_N = _numbers(config)
    answers = {split: 2 * count for split, count in _counts(config).items()}
    prompts = {s: -(-count // config.pairs_per_prompt) for s, count in _counts(config).items()}
    first_answer = 1 + sum(prompts.values())
    base_VxD = np.zeros((first_answer + sum(answers.values()), config.width), np.float32)
    start = 1
    for stream, sizes in ((PROMPTS, prompts), (ANSWERS, answers)):
        for split, size in sizes.items():
            block = base_VxD[start : start + size]
            _stream(config, split, stream).standard_normal(out=block, dtype=np.float32)
            start += size
    base_VxD[first_answer:] *= np.float32(0.5**0.5)
    prompt_N = 1 + number_N // config.pairs_per_prompt + prompts[TRAIN] * is_test_N
    return base_VxD, prompt_N, first_answer + 2 * np.arange(number_N.size)


def _layout(
    base_VxD: np.ndarray,
    code_WxD: np.ndarray,
    role_rows: dict[str, np.ndarray],
    code_N: np.ndarray,
) -> tuple[SimulatedStore, dict[str, np.ndarray]]:
    """The store and the table's rows in it: bases alone, three roles of the ctx view, codes alone.

    As in a real store, a row without a context reads its plain prompt in the context view.
    """
    bases, codes, count = len(base_VxD), len(code_WxD), code_N.size
    rows = {f"plain/{role}": rows_N for role, rows_N in role_rows.items()}
    for number, role in enumerate(role_rows):
        rows[f"ctx/{role}"] = bases + number * count + np.arange(count)
    rows["context/prompt"] = np.where(
        code_N == NO_CODE, role_rows["prompt"], bases + len(role_rows) * count + code_N
    )
    base_of = np.concatenate([np.arange(bases), *role_rows.values(), np.zeros(codes, np.int64)])
    code_of = np.concatenate(
        [np.full(bases, NO_CODE), *[code_N] * len(role_rows), np.arange(codes)]
    )
    return SimulatedStore(base_VxD, code_WxD, base_of, code_of), rows


def _text(
    config: SimulatorConfig, group_N: np.ndarray, wording_N: np.ndarray, wins_N: np.ndarray
) -> dict[str, list[str]]:
    """The text columns: what a reader of a report needs to recognise a row."""
    number_N, is_test_N = _numbers(config)
    split = np.where(is_test_N, "test", "train").tolist()
    prompt_N = number_N // config.pairs_per_prompt
    pair = [f"{part}-{number}" for part, number in zip(split, number_N, strict=True)]
    asked = [f"{part} prompt {number}" for part, number in zip(split, prompt_N, strict=True)]
    context = [f"wish {k}.{w}" for k, w in zip(group_N, wording_N, strict=True)]
    sides = [
        (f"first answer of {name}", f"second answer of {name}")[:: 1 if wins else -1]
        for name, wins in zip(pair, wins_N, strict=True)
    ]
    blank = [""] * number_N.size
    return dict.fromkeys(TEXT_COLUMNS, blank) | {
        "pair_id": pair,
        "prompt_id": [
            hashlib.sha256(f"{config.seed} {words}".encode()).hexdigest()[:32] for words in asked
        ],
        "attribute": [f"group-{group}" for group in group_N],
        "context": context if config.contexts else blank,
        "split": split,
        "prompt": [json.dumps([["user", words]]) for words in asked],
        "chosen": [chosen for chosen, _ in sides],
        "rejected": [rejected for _, rejected in sides],
    }


def _orthonormal(rng: np.random.Generator, width: int, count: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((width, count)))[0]


def _directions(config: SimulatorConfig) -> np.ndarray:
    """(D, K) unit columns, orthogonal or in opposite pairs."""
    signs = np.array([[1.0, -1.0]] if config.opposed else [[1.0]])
    axes = config.directions // signs.size
    return np.kron(_orthonormal(_stream(config, BOTH, DIRECTIONS), config.width, axes), signs)


def _codes(config: SimulatorConfig) -> np.ndarray:
    """(W, D) wordings of all contexts: nothing, then those of training, then those of test.

    Within a split group by group for every wording. The K coordinates that decide the group of a
    prompt are free of them.
    """
    groups, free = config.directions, config.width - config.directions
    code_KxF = _orthonormal(_stream(config, BOTH, CODES), free, groups).T
    parts = [np.zeros((1, free))]
    for split, wordings in ((TRAIN, config.train_wordings), (TEST, config.test_wordings)):
        shift = _stream(config, split, WORDINGS).standard_normal((wordings, groups, free))
        shift *= config.wording_spread / np.linalg.norm(shift, axis=-1, keepdims=True)
        parts.append((code_KxF + shift).reshape(-1, free))
    code_WxF = config.width**0.5 * np.concatenate(parts)
    return np.pad(code_WxF, ((0, 0), (groups, 0))).astype(np.float32)


def _cross_entropy(truth: np.ndarray, believed: np.ndarray) -> np.ndarray:
    """Expected ``-log`` probability of a coin with that truth, in nats; ``0 log 0`` counts as 0."""
    tiny = np.finfo(np.float64).tiny
    heads, tails = np.maximum(believed, tiny), np.maximum(1 - believed, tiny)
    return -truth * np.log(heads) - (1 - truth) * np.log(tails)
