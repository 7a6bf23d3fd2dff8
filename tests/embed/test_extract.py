"""The embedding loop: each sequence once, resumable, the same vectors in any circumstances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.reader import FeatureStore, KeyIndex
from micro_rm.cache.schema import StoreError, sequence_key
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import EmbedConfig
from micro_rm.embed import extract
from micro_rm.embed.chat import Conversation
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.extract import Tokenized, embed_work, plan_work, tokenize
from micro_rm.embed.planning import Pass, plan_passes
from micro_rm.embed.sources.pair import DataError, Message

LoadEncoder = Callable[..., Encoder]
RelativeError = Callable[..., float]
FAMILIES = ("llama", "qwen2", "gpt2", "bert")
CAUSAL = ("llama", "qwen2", "gpt2")
SMALL = EmbedConfig(device="cpu", batch_tokens=200, shard_rows=8)


def talk(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))


def texts(number: int = 12) -> list[Conversation]:
    """Prompts with two responses each; every third prompt has three turns."""
    made = []
    for place in range(number):
        turns = (f"How far is {place}?", "Very far.", "And now?") if place % 3 == 0 else ("Hi",)
        prompt = talk(*turns[:-1], f"{turns[-1]} Tell me of {place}.")
        made += [
            Conversation(prompt),
            Conversation(prompt, "Far." * (1 + place % 4)),
            Conversation(prompt, f"It is {place} km away."),
        ]
    return made


def run(
    made: Encoder, tokens: Tokenized, store: Path, config: EmbedConfig = SMALL
) -> dict[bytes, np.ndarray]:
    """Embed into a store; the vectors it then has, by key."""
    embed_work(
        made, plan_work(made, tokens.sequences, store, config), store, config, lambda *_: None
    )
    return stored(store, tokens)


def stored(store: Path, tokens: Tokenized) -> dict[bytes, np.ndarray]:
    reader = FeatureStore(store)
    keys = list(tokens.sequences)
    rows = KeyIndex(reader.keys()).rows(keys)
    assert (rows >= 0).all()
    return dict(zip(keys, reader.vectors(rows), strict=True))


@pytest.mark.parametrize("family", CAUSAL)
def test_the_prompt_is_read_the_same_through_chosen_rejected_and_alone(
    family: str, encoder: LoadEncoder, relative_error: RelativeError, tmp_path: Path
) -> None:
    """G-F3: catches a read-out that is off by one into the response."""
    made = encoder(family)
    prompt = talk("How far is the moon?", "Very far.", "And the sun?")
    conversations = [
        Conversation(prompt),
        Conversation(prompt, "149.6 million km."),
        Conversation(prompt, "I do not know."),
    ]
    ids = made.renderer.token_ids(conversations)
    place, key = len(ids[0]) - 1, sequence_key(ids[0])
    alone = made.backbone.vectors([Pass(ids[0], (place,), (key,))])[0]
    for longer in ids[1:]:
        assert longer[: place + 1].tolist() == ids[0].tolist()
        through = made.backbone.vectors([Pass(longer, (place,), (key,))])[0]
        assert relative_error(through, alone) < 1e-5
    tokens = tokenize(made, conversations)
    passes = plan_passes(tokens.sequences, share_prefixes=True)
    assert len(passes) == 2
    assert relative_error(run(made, tokens, tmp_path / "s")[key], alone) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompts_vector_does_not_change_with_the_responses(
    family: str, encoder: LoadEncoder, relative_error: RelativeError, tmp_path: Path
) -> None:
    """G-F3: the causality test, for encoders too, which share no prefixes."""
    made = encoder(family)
    found = []
    for name, responses in (("a", ("Yes.", "No.")), ("b", ("Once upon a time", "Ask me later"))):
        conversations = [Conversation(talk("Why?"), text) for text in (None, *responses)]
        tokens = tokenize(made, conversations)
        key = tokens.keys[0]
        assert key is not None
        found.append(run(made, tokens, tmp_path / name)[key])
    assert relative_error(found[0], found[1]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_store_holds_what_embedding_one_by_one_gives(
    family: str, encoder: LoadEncoder, relative_error: RelativeError, tmp_path: Path
) -> None:
    """G-F6, G-F8: every sequence, finite, and equal to its own separate pass."""
    made = encoder(family)
    tokens = tokenize(made, texts())
    found = run(made, tokens, tmp_path)
    assert len(FeatureStore(tmp_path)) == len(tokens.sequences)
    for key, ids in tokens.sequences.items():
        expected = made.backbone.vectors([Pass(ids, (len(ids) - 1,), (key,))])[0]
        assert np.isfinite(found[key]).all()
        assert relative_error(found[key], expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "config",
    [
        EmbedConfig(device="cpu", batch_tokens=1, shard_rows=1000),
        EmbedConfig(device="cpu", batch_tokens=10_000, shard_rows=1),
        EmbedConfig(device="cpu", batch_tokens=500, seal_seconds=1e-9),
    ],
)
def test_how_the_pass_runs_changes_no_vector(
    family: str,
    config: EmbedConfig,
    encoder: LoadEncoder,
    relative_error: RelativeError,
    tmp_path: Path,
) -> None:
    """G-F6: batch, shard and seal settings are no part of the identity."""
    made = encoder(family)
    tokens = tokenize(made, texts(6))
    first = run(made, tokens, tmp_path / "a")
    second = run(made, tokens, tmp_path / "b", config)
    for key in tokens.sequences:
        assert relative_error(second[key], first[key]) < 1e-5


def test_the_order_of_the_data_changes_no_bit(encoder: LoadEncoder, tmp_path: Path) -> None:
    """G-F6: the plan depends on the set of sequences only."""
    made = encoder("llama")
    first, second = tokenize(made, texts()), tokenize(made, texts()[::-1])
    run(made, first, tmp_path / "a")
    run(made, second, tmp_path / "b")
    shards = [sorted((tmp_path / name / "shards").iterdir()) for name in "ab"]
    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


def test_equal_token_sequences_are_stored_once(encoder: LoadEncoder, tmp_path: Path) -> None:
    made = encoder("llama")
    tokens = tokenize(made, [*texts(), *texts()])
    assert len(tokens.keys) == 72
    assert len(tokens.sequences) == 36
    run(made, tokens, tmp_path)
    assert len(FeatureStore(tmp_path)) == 36


def test_a_finished_job_has_nothing_left_to_do(encoder: LoadEncoder, tmp_path: Path) -> None:
    made = encoder("llama")
    tokens = tokenize(made, texts())
    run(made, tokens, tmp_path)
    manifest = (tmp_path / "manifest.json").read_bytes()
    work = plan_work(made, tokens.sequences, tmp_path, SMALL)
    assert (work.batches, work.tokens, work.stored) == ([], 0, work.sequences)
    run(made, tokens, tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == manifest


def test_only_new_sequences_are_embedded_for_more_data(
    encoder: LoadEncoder, tmp_path: Path
) -> None:
    made = encoder("llama")
    before, after = tokenize(made, texts(12)), tokenize(made, texts(15))
    run(made, before, tmp_path)
    sealed = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    work = plan_work(made, after.sequences, tmp_path, SMALL)
    assert work.stored == len(before.sequences)
    planned = {key for batch in work.batches for item in batch for key in item.keys}
    assert planned == after.sequences.keys() - before.sequences.keys()
    run(made, after, tmp_path)
    assert len(FeatureStore(tmp_path)) == len(after.sequences)
    for name, content in sealed.items():
        assert (tmp_path / "shards" / name).read_bytes() == content
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_an_interrupted_job_goes_on_and_ends_with_the_same_bits(
    stop_after: int, encoder: LoadEncoder, tmp_path: Path
) -> None:
    """What is finished is sealed when an interrupt passes, and is not embedded again."""
    made = encoder("llama")
    tokens = tokenize(made, texts())
    expected = run(made, tokens, tmp_path / "whole")
    work = plan_work(made, tokens.sequences, tmp_path / "cut", SMALL)
    assert len(work.batches) > stop_after
    begun = iter(range(1, len(work.batches)))

    def interrupt(done: int, total: int, seconds: float) -> None:
        if next(begun) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_work(made, work, tmp_path / "cut", SMALL, interrupt)
    done = sum(len(item.keys) for batch in work.batches[:stop_after] for item in batch)
    assert len(FeatureStore(tmp_path / "cut")) == done
    left = plan_work(made, tokens.sequences, tmp_path / "cut", SMALL)
    assert left.job == work.job
    assert left.stored == done
    found = run(made, tokens, tmp_path / "cut")
    assert len(FeatureStore(tmp_path / "cut")) == len(tokens.sequences)
    for key, vector in expected.items():
        assert np.array_equal(found[key], vector)


def test_progress_counts_tokens_up_to_all_of_them(encoder: LoadEncoder, tmp_path: Path) -> None:
    made = encoder("llama")
    tokens = tokenize(made, texts())
    work = plan_work(made, tokens.sequences, tmp_path, SMALL)
    seen: list[tuple[int, int]] = []
    embed_work(made, work, tmp_path, SMALL, lambda done, total, _: seen.append((done, total)))
    assert len(seen) == len(work.batches) > 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (work.tokens, work.tokens)


def test_a_store_of_another_identity_is_refused_before_any_work(
    encoder: LoadEncoder, tmp_path: Path
) -> None:
    made, other = encoder("llama"), encoder("llama", max_length=100)
    tokens = tokenize(made, texts(2))
    run(made, tokens, tmp_path)
    message = r"max_length: the store has 256, this run has 100"
    with pytest.raises(StoreError, match=message):
        plan_work(other, tokens.sequences, tmp_path, SMALL)


def test_a_vector_that_is_not_finite_stops_the_job(
    tmp_path: Path, save_backbone: Callable[..., Path], settings: Callable[..., Any]
) -> None:
    """G-F8."""
    import torch

    made = load_encoder(settings(save_backbone(tmp_path / "model", "llama")), "cpu")
    tokens = tokenize(made, texts(2))
    with torch.no_grad():
        made.backbone.model.norm.weight[3] = float("nan")
    with pytest.raises(StoreError, match="NaN or infinity"):
        run(made, tokens, tmp_path / "store")
    assert len(FeatureStore(tmp_path / "store")) == 0


def test_overlong_conversations_are_left_out_with_their_lengths(encoder: LoadEncoder) -> None:
    """G-F8: the row count equals the text count minus the logged drops."""
    made = encoder("llama", max_length=32)
    conversations = [Conversation(talk(text)) for text in ("a", "word " * 60, "b")]
    tokens = tokenize(made, conversations)
    assert list(tokens.refusals) == [1]
    assert "overlong: " in tokens.refusals[1] and "max_length is 32" in tokens.refusals[1]
    assert tokens.keys[1] is None
    assert tokens.keys[0] is not None
    assert tokens.lengths[0] == len(tokens.sequences[tokens.keys[0]])
    assert len(tokens.sequences) == 3 - len(tokens.refusals)


def test_overlong_error_stops_with_a_remedy(encoder: LoadEncoder) -> None:
    made = encoder("llama", max_length=32, overlong="error")
    tokenize(made, [Conversation(talk("a"))])
    with pytest.raises(DataError, match=r"too long: .* raise backbone\.max_length"):
        tokenize(made, [Conversation(talk("a")), Conversation(talk("word " * 60))])


def test_shortened_sequences_are_counted(encoder: LoadEncoder) -> None:
    made = encoder("llama", max_length=32, overlong="truncate_prompt")
    tokens = tokenize(made, [Conversation(talk("a"), "b"), Conversation(talk("word " * 60), "b")])
    assert tokens.shortened == 1
    assert not tokens.refusals
    assert all(length <= 32 for length in tokens.lengths)


@pytest.mark.parametrize("chunk", [1, 2, 2048])
def test_what_a_template_refuses_does_not_take_its_neighbours_along(
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    save_backbone: Callable[..., Path],
    settings: Callable[..., Any],
) -> None:
    monkeypatch.setattr(extract, "TOKENIZE_CHUNK", chunk)
    directory = save_backbone(tmp_path, "llama", template="no_system")
    made = load_encoder(settings(directory), "cpu")
    system = Message("system", "Be kind.")
    conversations = [
        Conversation(talk("a")),
        Conversation((system, *talk("b"))),
        Conversation(talk("c")),
        Conversation((system, *talk("d")), "e"),
        Conversation(talk("f"), "g"),
    ]
    tokens = tokenize(made, conversations)
    assert sorted(tokens.refusals) == [1, 3]
    for reason in tokens.refusals.values():
        assert reason == "the chat template refuses it: System role not supported"
    assert [key is None for key in tokens.keys] == [False, True, False, True, False]
    for place in (0, 2, 4):
        alone = made.renderer.token_ids([conversations[place]])[0]
        assert tokens.keys[place] == sequence_key(alone)


@pytest.mark.parametrize("chunk", [1, 5, 36])
def test_chunks_do_not_change_the_tokens(
    chunk: int, monkeypatch: pytest.MonkeyPatch, encoder: LoadEncoder
) -> None:
    expected = tokenize(encoder("llama"), texts())
    monkeypatch.setattr(extract, "TOKENIZE_CHUNK", chunk)
    found = tokenize(encoder("llama"), texts())
    assert found.keys == expected.keys
    assert found.lengths == expected.lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_different_prompts_have_different_vectors(
    family: str, encoder: LoadEncoder, tmp_path: Path
) -> None:
    """G-F4: a constant read-out position would give one vector for all prompts."""
    made = encoder(family)
    prompts = ("How far is the moon?", "And the sun?", "Tell me a story.")
    tokens = tokenize(made, [Conversation(talk(text)) for text in prompts])
    vectors = np.array(list(run(made, tokens, tmp_path).values()), np.float64)
    assert len(vectors) == 3
    assert (vectors.std(axis=0) > 1e-3).all()


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_tokenizers_without_a_pad_id_in_the_vocabulary_embed_batches(
    family: str, encoder: LoadEncoder
) -> None:
    made = encoder(family)
    pad = made.renderer.tokenizer.pad_token_id
    assert pad is None or pad >= made.backbone.model.config.vocab_size
    tokens = tokenize(made, texts(2))
    passes = plan_passes(tokens.sequences, share_prefixes=True)
    assert len({len(item.token_ids) for item in passes}) > 1
    assert np.isfinite(made.backbone.vectors(passes)).all()
