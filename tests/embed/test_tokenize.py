"""Conversations to a file of token ids: numbered, counted, and none lost to its neighbours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.schema import sequence_key
from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig, EmbedConfig
from micro_rm.embed import tokenize
from micro_rm.embed.chat import Conversation, Renderer
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.sequences import prompt_group
from micro_rm.embed.sources.pair import DataError, Message
from micro_rm.embed.tokenize import TOKEN_DTYPE, TokenFile

LoadEncoder = Callable[..., Encoder]


def talk(*turns: str) -> tuple[Message, ...]:
    return tuple(Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))


def texts(number: int = 12) -> list[Conversation]:
    """Prompts with two responses each; every third prompt has three turns."""
    made = []
    for index in range(number):
        turns = (f"How far is {index}?", "Very far.", "And now?") if index % 3 == 0 else ("Hi",)
        prompt = talk(*turns[:-1], f"{turns[-1]} Tell me of {index}.")
        made += [
            Conversation(prompt),
            Conversation(prompt, "Far." * (1 + index % 4)),
            Conversation(prompt, f"It is {index} km away."),
        ]
    return made


def tokenized(
    path: Path, renderer: Renderer, *batches: Iterable[Conversation]
) -> tuple[TokenFile, list[np.ndarray]]:
    """A closed file, and what it holds per conversation."""
    with TokenFile(path, renderer) as tokens:
        for batch in batches:
            tokens.add(list(batch))
        tokens.close()
    ids = np.fromfile(path, TOKEN_DTYPE)
    assert len(ids) == tokens.lengths.sum()
    return tokens, np.split(ids, np.cumsum(tokens.lengths)[:-1])


def test_tokens_lie_one_behind_the_other_in_the_order_of_their_numbers(
    encoder: LoadEncoder, tmp_path: Path
) -> None:
    renderer = encoder("llama").renderer
    conversations = texts()
    tokens, result = tokenized(tmp_path / "t", renderer, conversations)
    expected = renderer.token_ids(conversations)
    assert [ids.tolist() for ids in result] == [ids.tolist() for ids in expected]
    assert tokens.lengths.tolist() == [len(ids) for ids in expected]
    assert tokens.keys.tolist() == [
        np.array(sequence_key(ids), tokens.keys.dtype).item() for ids in expected
    ]
    assert tokens.groups.tolist() == [prompt_group(item) for item in conversations]
    assert (tokens.refusals, tokens.shortened) == ({}, 0)


@pytest.mark.parametrize("batch", [1, 5, 36, 2048])
@pytest.mark.parametrize("pieces", [1, 7, 36])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_batches_do_not_change_the_tokens(
    family: str,
    batch: int,
    pieces: int,
    monkeypatch: pytest.MonkeyPatch,
    encoder: LoadEncoder,
    tmp_path: Path,
) -> None:
    """With a chat template and without; also where the last batch is full or empty."""
    renderer = encoder(family).renderer
    expected, _ = tokenized(tmp_path / "expected", renderer, texts())
    monkeypatch.setattr(tokenize, "BATCH", batch)
    parts = np.array_split(np.arange(36), pieces)
    result, _ = tokenized(
        tmp_path / "found", renderer, *([texts()[index] for index in part] for part in parts)
    )
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()
    assert result.keys.tobytes() == expected.keys.tobytes()
    assert result.groups.tolist() == expected.groups.tolist()


def test_texts_wait_for_one_batch_and_not_longer(
    monkeypatch: pytest.MonkeyPatch, encoder: LoadEncoder, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", 5)
    tokens = TokenFile(tmp_path / "t", encoder("llama").renderer)
    for index, conversation in enumerate(texts(), start=1):
        tokens.add([conversation])
        assert len(tokens.lengths) == index - index % 5
    tokens.close()
    assert len(tokens.lengths) == 36


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_nothing_to_tokenise_is_an_empty_file(
    family: str, encoder: LoadEncoder, tmp_path: Path
) -> None:
    with TokenFile(tmp_path / "t", encoder(family).renderer) as tokens:
        tokens.close()
    assert (tmp_path / "t").read_bytes() == b""
    assert len(tokens.lengths) == len(tokens.keys) == len(tokens.groups) == 0


def test_overlong_conversations_are_left_out_with_their_lengths(
    encoder: LoadEncoder, tmp_path: Path
) -> None:
    """The row count equals the text count minus the logged drops."""
    made = encoder("llama", max_length=32)
    conversations = [Conversation(talk(text)) for text in ("a", "word " * 60, "b")]
    tokens, result = tokenized(tmp_path / "t", made.renderer, conversations)
    assert list(tokens.refusals) == [1]
    assert "overlong: " in tokens.refusals[1] and "max_length is 32" in tokens.refusals[1]
    assert [len(ids) > 0 for ids in result] == [True, False, True]
    assert tokens.keys[1] == b""
    alone = made.renderer.token_ids([conversations[2]])[0]
    assert result[2].tolist() == alone.tolist()


def test_overlong_error_stops_with_a_remedy(encoder: LoadEncoder, tmp_path: Path) -> None:
    renderer = encoder("llama", max_length=32, overlong="error").renderer
    tokenized(tmp_path / "good", renderer, [Conversation(talk("a"))])
    with pytest.raises(DataError, match=r"too long: .* raise backbone\.max_length"):
        tokenized(tmp_path / "bad", renderer, [Conversation(talk(t)) for t in ("a", "word " * 60)])


def test_shortened_sequences_are_counted(encoder: LoadEncoder, tmp_path: Path) -> None:
    renderer = encoder("llama", max_length=32, overlong="truncate_prompt").renderer
    tokens, _ = tokenized(
        tmp_path / "t", renderer, [Conversation(talk(t), "b") for t in ("a", "word " * 60)]
    )
    assert tokens.shortened == 1
    assert not tokens.refusals
    assert (tokens.lengths <= 32).all()


@pytest.mark.parametrize("batch", [1, 2, 2048])
def test_what_a_template_refuses_does_not_take_its_neighbours_along(
    batch: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    save_backbone: Callable[..., Path],
    settings: Callable[..., Any],
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", batch)
    directory = save_backbone(tmp_path / "model", "llama", template="no_system")
    renderer = load_encoder(settings(directory), EmbedConfig(device="cpu")).renderer
    system = Message("system", "Be kind.")
    conversations = [
        Conversation(talk("a")),
        Conversation((system, *talk("b"))),
        Conversation(talk("c")),
        Conversation((system, *talk("d")), "e"),
        Conversation(talk("f"), "g"),
    ]
    tokens, result = tokenized(tmp_path / "t", renderer, conversations)
    assert sorted(tokens.refusals) == [1, 3]
    for reason in tokens.refusals.values():
        assert reason == "the chat template refuses it: System role not supported"
    assert [len(ids) > 0 for ids in result] == [True, False, True, False, True]
    for index in (0, 2, 4):
        alone = renderer.token_ids([conversations[index]])[0]
        assert result[index].tolist() == alone.tolist()
        assert tokens.keys[index] == np.array(sequence_key(alone), tokens.keys.dtype)


def test_numbers_run_on_over_refusals_of_both_kinds(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    save_backbone: Callable[..., Path],
    settings: Callable[..., Any],
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", 3)
    directory = save_backbone(tmp_path / "model", "llama", template="no_system")
    encoder = load_encoder(settings(directory, max_length=32), EmbedConfig(device="cpu"))
    system = Conversation((Message("system", "Be kind."), *talk("b")))
    overlong = Conversation(talk("word " * 60))
    good: Sequence[Conversation] = [Conversation(talk(text)) for text in "abcd"]
    tokens, result = tokenized(
        tmp_path / "t", encoder.renderer, [good[0], overlong, system], [system, good[1], overlong]
    )
    assert {index: reason[:8] for index, reason in tokens.refusals.items()} == {
        1: "overlong",
        2: "the chat",
        3: "the chat",
        5: "overlong",
    }
    assert [len(ids) > 0 for ids in result] == [True, False, False, False, True, False]


BROKEN = {
    # What a template may do with some texts only: calculate, index, look up, leave nothing.
    "'a' + 1": "TypeError",
    "[1][9] + 1": "no element 9",
    "1 // 0": "ZeroDivisionError",
    "'a'.nothing.more": "no attribute",
    "raise_exception('roles must alternate')": "roles must alternate",
}


@pytest.mark.parametrize(("expression", "reason"), BROKEN.items())
def test_whatever_a_template_raises_costs_its_rows_only(
    expression: str, reason: str, tmp_path: Path, encoder: LoadEncoder
) -> None:
    renderer = copy.copy(encoder("llama").renderer)
    renderer.tokenizer = copy.deepcopy(renderer.tokenizer)
    bad = "{% if 'bad' in messages[0].content %}{{ " + expression + " }}{% endif %}"
    renderer.tokenizer.chat_template = bad + renderer.tokenizer.chat_template
    conversations = [Conversation(talk(text)) for text in ("a", "bad", "c")]
    tokens, result = tokenized(tmp_path / "t", renderer, conversations)
    assert list(tokens.refusals) == [1] and reason in tokens.refusals[1]
    assert [len(ids) > 0 for ids in result] == [True, False, True]


def test_a_conversation_that_is_no_tokens_is_refused(tmp_path: Path, encoder: LoadEncoder) -> None:
    """There would be no last token to read."""
    renderer = copy.copy(encoder("qwen2").renderer)
    renderer.tokenizer = copy.deepcopy(renderer.tokenizer)
    template = renderer.tokenizer.chat_template
    renderer.tokenizer.chat_template = (
        "{% if messages[0].content != 'nothing' %}" + template + "{% endif %}"
    )
    conversations = [Conversation(talk("nothing")), Conversation(talk("a"))]
    tokens, result = tokenized(tmp_path / "t", renderer, conversations)
    assert tokens.refusals == {0: "nothing is left of it as tokens"}
    assert [len(ids) > 0 for ids in result] == [False, True]


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{% if %}"])
def test_a_template_that_refuses_everything_is_an_error_of_the_backbone(
    template: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer("llama")
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=r"backbone\.template: .* refuses even a plain"):
        Renderer(tokenizer, BackboneConfig(name="tiny")).probe_hash()
