"""Data for the tests of the JAX half: a small real store, examples from arrays, planted rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from micro_rm.cache.pairs import NO_ROW, TEXT_COLUMNS, PairTable, write_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import KEY_DTYPE, Identity, sequence_key
from micro_rm.cache.writer import adopt_shards, open_manifest, shard_path, write_shard
from micro_rm.configs.adapt import AdaptConfig
from micro_rm.configs.baselines import BaselinesConfig
from micro_rm.configs.resolve import SIMULATOR_FACTS, StaticFacts, resolve, resolve_backbone
from micro_rm.configs.schema import BackboneConfig, Config, DataConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.features import Features
from micro_rm.heads.methods.interface import NO_LABEL, Budget, Examples, Problem, Sides
from micro_rm.heads.rows import Rows
from micro_rm.heads.run_data import RunData
from micro_rm.tests.heads.simulated import recovery_config

ATTRIBUTES = ("brief", "polite")
PROMPTS, TRAIN_PROMPTS, POOL_PROMPTS, WIDTH = 60, 40, 32, 8
CONTEXTS = {"brief": "Keep it short.", "polite": "Mind your manners."}


FACTS = StaticFacts(dtype="float32", pooling="last", max_length=64)


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
    Rows that no stage reads in the ctx view have no such vectors, as in a real store. The response
    that ``brief`` prefers has 9 tokens, the other one 9 to 13.
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
        settings={
            "backbone": asdict(resolve_backbone(BackboneConfig(), FACTS)),
            "form": "header",
        },
        rows=rows,
        text=text,
        source_row=np.arange(number_N.size),
        pool=pool_N,
        margin=np.full(number_N.size, np.nan, np.float32),
        tokens={
            "chosen": np.where(likes_first_N[:, 0], 9, 9 + number_N % 5),
            "rejected": np.where(likes_first_N[:, 0], 9 + number_N % 5, 9),
        },
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
        layer="last",
        **FACTS._asdict(),
    )
    manifest = open_manifest(store, identity, WIDTH)
    keys = np.array([sequence_key([place]) for place in range(len(stacked))], KEY_DTYPE)
    for number, part in enumerate(np.array_split(order, 3)):
        write_shard(shard_path(store, number), identity, "tests", keys[part], stacked[part])
    adopt_shards(store, manifest)
    rows, start = {}, 0
    for key, places in wanted.items():
        rows[key] = np.full(len(vectors[key]), NO_ROW, np.int64)
        rows[key][places] = row_of[start : start + places.size]
        start += places.size
    return rows


@pytest.fixture(scope="session")
def make_run_data(tiny: TinyData) -> Callable[..., RunData]:
    """``make_run_data(table=None, native_head_D=None, **sections)``: those of the tiny store.

    ``table`` holds fields of the pair table that differ, ``text`` among them by column.
    """

    def make(
        table: dict[str, Any] | None = None,
        native_head_D: np.ndarray | None = None,
        **sections: Any,
    ) -> RunData:
        changes = dict(table or {})
        changes["text"] = {**tiny.table.text, **changes.get("text", {})}
        sections.setdefault("data", DataConfig(name="tiny"))
        sections.setdefault("train", TrainConfig(validation_fraction=0.2))
        sections.setdefault("adapt", AdaptConfig(budget=8, pool=32, draws=3))
        features = Features(FeatureStore(tiny.store), replace(tiny.table, **changes), native_head_D)
        return RunData(resolve(Config(**sections), SIMULATOR_FACTS), features)

    return make


@pytest.fixture(scope="session")
def make_examples() -> Callable[..., Examples]:
    """``make_examples(delta_NxD, router_input_NxD=None, **labels)``; what is not given is absent.

    Responses lie on either side of the origin unless ``sides`` says where.
    """

    def make(
        delta_NxD: np.ndarray, router_input_NxD: np.ndarray | None = None, **labels: Any
    ) -> Examples:
        delta_NxD = np.asarray(delta_NxD, np.float32)
        if router_input_NxD is None:
            router_input_NxD = np.zeros_like(delta_NxD)
        nobody_N = np.full(len(delta_NxD), NO_LABEL)
        sides = labels.pop("sides", Sides(delta_NxD / 2, -delta_NxD / 2))
        named = {f"{name}_N": np.asarray(values) for name, values in labels.items()}
        defaults = {
            "attribute_N": nobody_N,
            "user_N": nobody_N,
            "group_N": nobody_N,
            "longer_N": np.zeros(len(delta_NxD), np.float32),
        }
        rows = Rows(jnp.asarray(delta_NxD), jnp.asarray(router_input_NxD, jnp.float32))
        return Examples(rows, **(defaults | named), load_sides=lambda: sides)

    return make


@pytest.fixture(scope="session")
def make_budget() -> Callable[..., Budget]:
    """``make_budget(delta_SxBxD, router_input_SxBxD, groups=1, mask=None, wording=None)``."""

    def make(
        delta_SxBxD: np.ndarray,
        router_input_SxBxD: np.ndarray,
        groups: int = 1,
        mask: np.ndarray | None = None,
        wording: np.ndarray | None = None,
    ) -> Budget:
        delta_SxBxD = np.asarray(delta_SxBxD, np.float32)
        shape = delta_SxBxD.shape[:2]
        return Budget(
            rows=Rows(jnp.asarray(delta_SxBxD), jnp.asarray(router_input_SxBxD, jnp.float32)),
            group_B=np.repeat(np.arange(groups), shape[1] // groups),
            wording_SxB=np.zeros(shape, np.int64) if wording is None else wording,
            mask_SxB=np.ones(shape, np.float32) if mask is None else mask,
            load_sides=lambda: Sides(delta_SxBxD / 2, -delta_SxBxD / 2),
        )

    return make


@pytest.fixture(scope="session")
def make_problem(make_examples: Callable[..., Examples]) -> Callable[..., Problem]:
    """``make_problem(train, validation=None, **fields)`` with default settings and seed 0."""

    def make(train: Examples, validation: Examples | None = None, **fields: Any) -> Problem:
        width = train.rows.delta_NxD.shape[1]
        defaults: dict[str, Any] = {
            "width": width,
            "validation": validation or make_examples(np.zeros((0, width))),
            "train_config": TrainConfig(),
            "adapt_config": AdaptConfig(),
            "baselines": BaselinesConfig(),
            "key": jax.random.key(0),
        }
        return Problem(train=train, **(defaults | fields))

    return make


@pytest.fixture(scope="session")
def planted(
    make_examples: Callable[..., Examples], make_problem: Callable[..., Problem]
) -> Planted:
    """Three orthogonal tastes in d = 32; the largest of three prompt coordinates picks one.

    Chosen wins with probability sigmoid(4 x component), so the data contradict every single taste.
    """
    width, heads = 32, 3
    rng = np.random.default_rng(0)
    directions_DxK = np.linalg.qr(rng.normal(size=(width, heads)))[0]

    def draw(count: int) -> Examples:
        prompt_NxD = np.zeros((count, width), np.float32)
        prompt_NxD[:, :8] = 2 * rng.normal(size=(count, 8))
        taste_N = prompt_NxD[:, :heads].argmax(axis=1)
        delta_NxD = rng.normal(size=(count, width))
        margin_N = 4 * (delta_NxD @ directions_DxK)[np.arange(count), taste_N]
        wins_N = rng.random(count) < 1 / (1 + np.exp(-margin_N))
        return make_examples(np.where(wins_N[:, None], delta_NxD, -delta_NxD), prompt_NxD)

    config = recovery_config(heads)
    return Planted(directions_DxK, make_problem(draw(4096), draw(1024), train_config=config))
