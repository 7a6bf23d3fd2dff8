"""A store is what the backbone gives: proven on a sample, and on the backbone's own reward head."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from micro_rm.cache.pairs import NO_ROW, PairTable, read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.configs.schema import BackboneConfig, EmbedConfig
from micro_rm.embed import recheck as recheck_module
from micro_rm.embed.backbone import TorchBackbone, collate
from micro_rm.embed.chat import Conversation
from micro_rm.embed.encoder import Encoder
from micro_rm.embed.recheck import TOLERANCE, recheck
from micro_rm.embed.sources.pair import Message
from micro_rm.embed.stage import JobResult

Embed = Callable[..., JobResult]
Rows = Callable[[int], list[dict[str, Any]]]
WriteRows = Callable[..., str]
Made = Callable[..., tuple[FeatureStore, PairTable]]
ALL = 10_000
ON_CPU = EmbedConfig(device="cpu")


@pytest.fixture
def made(tmp_path: Path, embed: Embed, write_rows: WriteRows, preference_rows: Rows) -> Made:
    """``made(name, rows=None, **settings)``: an opened store and its pair table."""

    def make(
        name: str | Path, rows: list[dict[str, Any]] | None = None, **changes: Any
    ) -> tuple[FeatureStore, PairTable]:
        file = write_rows(tmp_path / "rows.jsonl", rows or preference_rows(16))
        embed(name, file, tmp_path / "store", **changes)
        return FeatureStore(tmp_path / "store"), read_pairs(tmp_path / "store", "rows")

    return make


def own_rewards(directory: Path, sequences: list[np.ndarray], side: str) -> np.ndarray:
    """Logits of transformers' own sequence classifier for one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    ids, mask, _ = collate(sequences, side)
    ids = np.where(mask == 1, ids, model.config.pad_token_id)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        ).logits
    return logits[:, 0].numpy()


@pytest.mark.parametrize(
    ("side", "padding"), [("right", "right"), ("left", "left"), ("right", "none")]
)
def test_vector_times_score_head_is_the_backbones_own_reward(
    side: str,
    padding: str,
    backbone: Callable[..., TorchBackbone],
    backbone_path: Callable[[str], Path],
    encoder: Callable[..., Encoder],
) -> None:
    """With right padding, left padding and no padding, on our side and on theirs."""
    directory = backbone_path("llama-reward")
    ids = encoder("llama-reward").renderer.token_ids(
        [
            Conversation((Message("user", "How far is the moon?"),), response)
            for response in (None, "384,400 km.", "Very far, they say. " * 4)
        ]
    )
    vectors = backbone("llama-reward", side).vectors(ids)
    score = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32
    ).score.weight
    ours = vectors @ score.detach().numpy()[0]
    if padding == "none":
        theirs = np.concatenate([own_rewards(directory, [item], "right") for item in ids])
    else:
        theirs = own_rewards(directory, ids, padding)
    assert np.ptp(theirs) > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("llama", "bfloat16", marks=pytest.mark.long),
        pytest.param("qwen2", "float32", marks=pytest.mark.long),
        pytest.param("gpt2", "float32", marks=pytest.mark.long),
        ("bert", "float32"),
        ("llama-reward", "float32"),
    ],
)
def test_a_correct_store_passes(name: str, dtype: str, made: Made) -> None:
    """Re-extraction agrees with the cache."""
    store, table = made(name, dtype=dtype)
    result = recheck(store, table, size=ALL, seed=0, settings=ON_CPU)
    assert result.problems == []
    assert result.sequences == sum((rows != NO_ROW).sum() for rows in table.rows.values())
    assert result.largest_error <= TOLERANCE[dtype]
    assert (result.head_error is not None) == (name == "llama-reward")
    assert (result.head_error or 0) < 1e-5


def test_vectors_of_another_pooling_miss_the_reward_head(made: Made) -> None:
    """The store agrees with itself, the backbone's own reward does not."""
    result = recheck(*made("llama-reward", pooling="mean"), size=ALL, seed=0, settings=ON_CPU)
    assert result.largest_error <= TOLERANCE["float32"]
    assert result.head_error is not None and result.head_error > 0.01
    (problem,) = result.problems
    assert "misses the backbone's own reward" in problem


def test_a_pad_token_that_equals_the_end_of_turn_does_not_mislead_the_reward_head(
    tmp_path: Path, save_backbone: Callable[..., Path], made: Made
) -> None:
    """Pooling by comparison with the pad id would stop before the last token."""
    directory = save_backbone(tmp_path / "model", "llama", labels=1)
    path = directory / "config.json"
    end = PreTrainedTokenizerFast.from_pretrained(directory).eos_token_id
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token_id": end}))
    result = recheck(*made(directory), size=ALL, seed=0, settings=ON_CPU)
    assert result.problems == []
    assert result.head_error is not None and result.head_error < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain/prompt", "ctx/rejected"])
def test_a_swapped_row_in_a_pair_table_is_found(name: str, made: Made) -> None:
    store, table = made("llama")
    rows = table.rows[name].copy()
    used = np.flatnonzero(rows != NO_ROW)
    other = next(index for index in used if rows[index] != rows[used[0]])
    rows[[used[0], other]] = rows[[other, used[0]]]
    swapped = replace(table, rows={**table.rows, name: rows})
    result = recheck(store, swapped, size=ALL, seed=0, settings=ON_CPU)
    assert len(result.problems) == 2
    assert all("when embedded again" in problem for problem in result.problems)
    assert result.largest_error > 0.01


def test_other_weights_are_found(
    tmp_path: Path, save_backbone: Callable[..., Path], made: Made
) -> None:
    directory = save_backbone(tmp_path / "model", "llama")
    store, table = made(directory)
    weights = bytearray((directory / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (directory / "model.safetensors").write_bytes(weights)
    result = recheck(store, table, size=4, seed=0, settings=ON_CPU)
    assert result.sequences == 0
    (problem,) = result.problems
    assert "the backbone at hand is another one" in problem and "weights: " in problem


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1.001), ("bfloat16", 1.05)])
def test_wrong_vectors_are_found_even_under_the_right_identity(
    dtype: str, factor: float, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, table = made("llama", dtype=dtype)
    honest = store.vectors
    monkeypatch.setattr(store, "vectors", lambda rows: honest(rows) * np.float32(factor))
    result = recheck(store, table, size=5, seed=0, settings=ON_CPU)
    assert (result.sequences, len(result.problems)) == (5, 5)


@pytest.mark.long
@pytest.mark.parametrize(("seen", "problems"), [(0.009, 1), (0.02, 0)])
def test_what_the_probe_saw_of_a_model_is_no_defect(
    seen: float, problems: int, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep models in 16 bits differ from themselves by more than the usual tolerance."""
    store, table = made("llama")
    store_vectors = FeatureStore.vectors
    monkeypatch.setattr(FeatureStore, "vectors", lambda *rest: 1.03 * store_vectors(*rest))
    load = recheck_module.load_encoder

    def loaded(*settings: Any) -> Encoder:
        encoder = load(*settings)
        encoder.backbone.probe_error = seen
        return encoder

    monkeypatch.setattr(recheck_module, "load_encoder", loaded)
    result = recheck(store, table, size=1, seed=0, settings=ON_CPU)
    assert len(result.problems) == problems


def test_the_sample_is_a_matter_of_the_seed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    store, table = made("llama")
    honest = store.vectors
    asked: list[int] = []
    monkeypatch.setattr(
        store, "vectors", lambda rows: (asked.extend(map(int, rows)), honest(rows))[1]
    )
    samples = []
    for seed in (0, 0, 1):
        asked.clear()
        assert recheck(store, table, size=6, seed=seed, settings=ON_CPU).sequences == 6
        samples.append(list(asked))
    assert samples[0] == samples[1] != samples[2]


def test_shortened_sequences_are_shortened_again(made: Made, preference_rows: Rows) -> None:
    rows = [row | {"prompt": row["prompt"] + " word" * 80} for row in preference_rows(8)]
    store, table = made("llama", rows, max_length=80, overlong="truncate_prompt")
    assert table.account["shortened_sequences"]
    assert recheck(store, table, size=ALL, seed=0, settings=ON_CPU).problems == []


def test_a_store_rechecks_with_the_settings_it_was_made_with(made: Made) -> None:
    store, table = made("llama", prompt_readout="generation_prompt", bos="none")
    config = BackboneConfig(**table.settings["backbone"])
    assert (config.prompt_readout, config.bos) == ("generation_prompt", "none")
    assert recheck(store, table, size=ALL, seed=0, settings=ON_CPU).problems == []


def test_a_store_that_was_made_with_sharing_is_checked_without(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sequence alone, by the model's own attention: a fault in sharing cannot hide."""
    store, table = made("llama")

    def share(_backbone: TorchBackbone, _sequences: object) -> None:
        raise AssertionError("a shared pass")

    monkeypatch.setattr(TorchBackbone, "submit", share)
    assert recheck(store, table, size=5, seed=0, settings=ON_CPU).problems == []
