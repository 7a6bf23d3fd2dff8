"""Data for the tests of the JAX half: a small real store, and rows with planted directions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable, write_pairs
from micro_rm.cache.schema import Identity, sequence_key
from micro_rm.cache.writer import StoreWriter
from micro_rm.configs.schema import AdaptConfig, BackboneConfig, TrainConfig
from micro_rm.heads.methods.interface import Problem
from micro_rm.heads.training import Rows

ATTRIBUTES = ("brief", "polite")
PROMPTS, TRAIN_PROMPTS, POOL_PROMPTS, WIDTH = 60, 40, 32, 8
CONTEXTS = {"brief": "Keep it short.", "polite": "Mind your manners."}


@dataclass(frozen=True)
class TinyData:
    """A store on disk, its pair table, and the (N, D) vectors that every view must give back."""

    store: Path
    table: PairTable
    vectors: dict[str, np.ndarray]


@dataclass(frozen=True)
class Planted:
    """Rows drawn from a mixture with known directions, chosen by the prompt."""

    directions_DxK: np.ndarray
    problem: Problem


@pytest.fixture(scope="package", autouse=True)
def _one_set_of_numerics() -> Iterator[None]:
    """Strict numerics for fixtures that outlive a test, too: they start before its own do.

    The precision is the one that ``stages`` sets. Under one setting for all, a program that is
    compiled once serves every fixture and every test.
    """
    wanted = {"jax_numpy_rank_promotion": "raise", "jax_default_matmul_precision": "float32"}
    before = {name: getattr(jax.config, name) for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Two responses per prompt, judged in opposite ways under two attributes.

    ``brief`` prefers the one, ``polite`` the other, so no reward that ignores the context can be
    right in more than half of the rows. Prompts 0..39 are for training, 0..31 of them in the pool.
    Rows that no stage reads in the ctx view have no such vectors, as in a real store.
    """
    rng = np.random.default_rng(7)
    taste_D = np.array([1.5, -1.5, 0, 0, 0, 0, 0, 0], np.float32)
    wish_AxD = np.zeros((2, WIDTH), np.float32)
    wish_AxD[0, 4], wish_AxD[1, 5] = 3.0, 3.0
    prompt = rng.normal(size=(PROMPTS, WIDTH)).astype(np.float32)
    first = prompt + taste_D + 0.1 * rng.normal(size=prompt.shape).astype(np.float32)
    second = prompt - taste_D + 0.1 * rng.normal(size=prompt.shape).astype(np.float32)

    number_N = np.repeat(np.arange(PROMPTS), len(ATTRIBUTES))
    attribute_N = np.tile(np.arange(len(ATTRIBUTES)), PROMPTS)
    likes_first_N = (attribute_N == 0)[:, None]
    wish_NxD = wish_AxD[attribute_N]
    plain = {
        "prompt": prompt[number_N],
        "chosen": np.where(likes_first_N, first[number_N], second[number_N]),
        "rejected": np.where(likes_first_N, second[number_N], first[number_N]),
    }
    vectors = {f"plain/{role}": vector for role, vector in plain.items()}
    vectors |= {f"ctx/{role}": vector + wish_NxD for role, vector in plain.items()}
    vectors["context/prompt"] = 2 * wish_NxD

    store = tmp_path_factory.mktemp("tiny") / "store"
    is_test_N = number_N >= TRAIN_PROMPTS
    pool_N = number_N < POOL_PROMPTS
    rows = _write_vectors(
        store, vectors, {"ctx": is_test_N | pool_N, "context": is_test_N | pool_N}
    )
    text = {column: [""] * number_N.size for column in TEXT_COLUMNS}
    names = [ATTRIBUTES[number] for number in attribute_N]
    text |= {
        "pair_id": [f"pair-{number}" for number in range(number_N.size)],
        "prompt_id": [hashlib.sha256(b"%d" % number).hexdigest()[:32] for number in number_N],
        "attribute": names,
        "context": [CONTEXTS[name] for name in names],
        "user": [f"rater of {name}" for name in names],
        "split": ["test" if is_test else "train" for is_test in is_test_N],
        "prompt": [json.dumps([["user", f"question {number}"]]) for number in number_N],
    }
    table = PairTable(
        name="tiny",
        request="0" * 32,
        settings={"backbone": asdict(BackboneConfig()), "form": "header"},
        rows=rows,
        text=text,
        source_row=np.arange(number_N.size),
        pool=pool_N,
        margin=np.full(number_N.size, np.nan, np.float32),
        tokens={role: np.full(number_N.size, 9) for role in ("chosen", "rejected")},
        account={"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0},
    )
    write_pairs(store, table)
    return TinyData(store, table, vectors)


def _write_vectors(
    store: Path, vectors: dict[str, np.ndarray], embedded: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Store the embedded vectors in a shuffled order over several shards; rows by view and role."""
    wanted = {
        key: np.flatnonzero(embedded.get(key.split("/")[0], np.ones(len(vector), bool)))
        for key, vector in vectors.items()
    }
    stacked = np.concatenate([vectors[key][places] for key, places in wanted.items()])
    order = np.random.default_rng(11).permutation(len(stacked))
    row_of = np.empty(len(stacked), np.int64)
    row_of[order] = np.arange(len(stacked))
    identity = Identity(
        backbone="random",
        revision="",
        weights="",
        tokenizer="",
        template="",
        probe="",
        bos="none",
        pooling="last",
        layer="last",
        dtype="float32",
        max_length=64,
    )
    with StoreWriter(
        store, identity, WIDTH, job="tests", shard_rows=256, seal_seconds=60
    ) as writer:
        for part in np.array_split(order, 8):
            writer.add([sequence_key([int(place)]) for place in part], stacked[part])
    rows, start = {}, 0
    for key, places in wanted.items():
        rows[key] = np.full(len(vectors[key]), NO_ROW, np.int64)
        rows[key][places] = row_of[start : start + places.size]
        start += places.size
    return rows


@pytest.fixture(scope="session")
def planted() -> Planted:
    """Three orthogonal tastes in d = 32; the largest of three prompt coordinates picks one.

    Chosen wins with probability sigmoid(4 x component), so the data contradict every single taste.
    """
    width, heads = 32, 3
    rng = np.random.default_rng(0)
    directions_DxK = np.linalg.qr(rng.normal(size=(width, heads)))[0]

    def draw(count: int) -> Rows:
        prompt_NxD = np.zeros((count, width), np.float32)
        prompt_NxD[:, :8] = 2 * rng.normal(size=(count, 8))
        taste_N = prompt_NxD[:, :heads].argmax(axis=1)
        delta_NxD = rng.normal(size=(count, width))
        margin_N = 4 * (delta_NxD @ directions_DxK)[np.arange(count), taste_N]
        wins_N = rng.random(count) < 1 / (1 + np.exp(-margin_N))
        delta_NxD = np.where(wins_N[:, None], delta_NxD, -delta_NxD)
        return Rows(jnp.asarray(delta_NxD, jnp.float32), jnp.asarray(prompt_NxD))

    config = TrainConfig(
        num_heads=heads,
        entropy_weight=0.05,
        learning_rate=1e-2,
        epochs=20,
        select="last",
        router="linear",
    )
    problem = Problem(width, draw(4096), draw(1024), config, AdaptConfig(), jax.random.key(0))
    return Planted(directions_DxK, problem)
