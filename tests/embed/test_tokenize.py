"""Conversations to a file of token ids: numbered, counted, and none lost to its neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from micro_rm.cache.schema import sequence_key
from micro_rm.embed import tokenize
from micro_rm.embed.chat import Conversation, Renderer
from micro_rm.embed.sequences import prompt_group
from micro_rm.embed.sources.pair import DataError, Message
from micro_rm.embed.tokenize import TOKEN_DTYPE, TokenFile
from micro_rm.tests.embed.tiny_models import renderer
from micro_rm.tests.embed.token_sequences import talk

LONG = Conversation(talk("word " * 60))
SYSTEM = Conversation((Message("system", "Be kind."), *talk("b")))


def texts(number: int = 12) -> list[Conversation]:
    """Prompts with two responses each; every third prompt has three turns."""
    made = []
    for index in range(number):
        turns = (f"How far is {index}?", "Very far.", "And now?") if index % 3 == 0 else ("Hi",)
        prompt = talk(*turns[:-1], f"{turns[-1]} Tell me of {index}.")
        responses = (None, "Far." * (1 + index % 4), f"It is {index} km away.")
        made += [Conversation(prompt, response) for response in responses]
    return made


def plain(*prompts: str) -> list[Conversation]:
    return [Conversation(talk(prompt)) for prompt in prompts]


def tokenized(
    path: Path, renderer: Renderer, *batches: Iterable[Conversation]
) -> tuple[TokenFile, list[list[int]]]:
    """A closed file, and what it holds per conversation."""
    with TokenFile(path, renderer) as tokens:
        for batch in batches:
            tokens.add(list(batch))
        tokens.close()
    ids = np.fromfile(path, TOKEN_DTYPE)
    assert len(ids) == tokens.lengths.sum()
    return tokens, [part.tolist() for part in np.split(ids, np.cumsum(tokens.lengths)[:-1])]


@pytest.mark.parametrize(
    ("family", "batch", "pieces"),
    [("llama", 2048, 1), ("llama", 1, 7), ("gpt2", 5, 7), ("llama", 36, 36), ("gpt2", 12, 1)],
)
def test_tokens_lie_one_behind_the_other_whatever_the_batches(
    family: str,
    batch: int,
    pieces: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With a chat template and without; also where the last batch is full or empty."""
    monkeypatch.setattr(tokenize, "BATCH", batch)
    conversations, made = texts(), renderer(family)
    parts = np.array_split(np.arange(36), pieces)
    tokens, result = tokenized(
        tmp_path / "t", made, *([conversations[index] for index in part] for part in parts)
    )
    expected = made.token_ids(conversations)
    assert result == [ids.tolist() for ids in expected]
    keys = np.array([sequence_key(ids) for ids in expected], tokens.keys.dtype)
    assert tokens.keys.tobytes() == keys.tobytes()
    assert tokens.groups.tolist() == [prompt_group(item) for item in conversations]
    assert (tokens.refusals, tokens.shortened) == ({}, 0)


def test_texts_wait_for_one_batch_and_not_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", 5)
    tokens = TokenFile(tmp_path / "t", renderer("llama"))
    for index, conversation in enumerate(texts(), start=1):
        tokens.add([conversation])
        assert len(tokens.lengths) == index - index % 5
    tokens.close()
    assert len(tokens.lengths) == 36


def test_nothing_to_tokenise_is_an_empty_file(tmp_path: Path) -> None:
    with TokenFile(tmp_path / "t", renderer("llama")) as tokens:
        tokens.close()
    assert (tmp_path / "t").read_bytes() == b""
    assert len(tokens.lengths) == len(tokens.keys) == len(tokens.groups) == 0


def test_overlong_error_stops_with_a_remedy(tmp_path: Path) -> None:
    made = renderer("llama", max_length=32, overlong="error")
    tokenized(tmp_path / "good", made, plain("a"))
    with pytest.raises(DataError, match=r"too long: .* raise backbone\.max_length"):
        tokenized(tmp_path / "bad", made, [*plain("a"), LONG])


def test_shortened_sequences_are_counted(tmp_path: Path) -> None:
    made = renderer("llama", max_length=32, overlong="truncate_prompt")
    conversations = [item._replace(response="b") for item in (*plain("a"), LONG)]
    tokens, _ = tokenized(tmp_path / "t", made, conversations)
    assert (tokens.shortened, tokens.refusals) == (1, {})
    assert (tokens.lengths <= 32).all()


@pytest.mark.parametrize("batch", [1, 3, 2048])
def test_what_is_too_long_or_refused_by_a_template_does_not_take_its_neighbours_along(
    batch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tokenize, "BATCH", batch)
    made = renderer("no_system", max_length=32)
    good = plain("a", "b", "c")
    tokens, result = tokenized(
        tmp_path / "t",
        made,
        [good[0], LONG, SYSTEM, SYSTEM._replace(response="e")],
        [good[1], LONG, good[2]],
    )
    long = f"overlong: {len(made.token_ids([LONG])[0])} tokens, backbone.max_length is 32"
    refused = "the chat template refuses it: System role not supported"
    assert tokens.refusals == {1: long, 2: refused, 3: refused, 5: long}
    expected = [ids.tolist() for ids in made.token_ids(good)]
    assert result == [expected[0], [], [], [], expected[1], [], expected[2]]
    assert tokens.keys[1] == tokens.keys[2] == b""
    for index in (0, 4, 6):
        key = np.array(sequence_key(np.array(result[index], np.int32)), tokens.keys.dtype)
        assert tokens.keys[index] == key


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        # What a template may do with some texts only: calculate, index, look up, refuse.
        ("'a' + 1", "TypeError"),
        ("[1][9] + 1", "no element 9"),
        ("1 // 0", "ZeroDivisionError"),
        ("'a'.nothing.more", "no attribute"),
        ("raise_exception('roles must alternate')", "roles must alternate"),
    ],
)
def test_whatever_a_template_raises_costs_its_rows_only(
    expression: str, reason: str, tmp_path: Path
) -> None:
    template = renderer("llama").tokenizer.chat_template
    bad = "{% if 'bad' in messages[0].content %}{{ " + expression + " }}{% endif %}"
    made = renderer("llama", chat_template=bad + template)
    tokens, result = tokenized(tmp_path / "t", made, plain("a", "bad", "c"))
    assert list(tokens.refusals) == [1] and reason in tokens.refusals[1]
    assert [len(ids) > 0 for ids in result] == [True, False, True]


def test_a_conversation_that_is_no_tokens_is_refused(tmp_path: Path) -> None:
    """There would be no last token to read."""
    template = renderer("qwen2").tokenizer.chat_template
    hiding = "{% if messages[0].content != 'nothing' %}" + template + "{% endif %}"
    made = renderer("qwen2", chat_template=hiding)
    tokens, result = tokenized(tmp_path / "t", made, plain("nothing", "a"))
    assert tokens.refusals == {0: "nothing is left of it as tokens"}
    assert [len(ids) > 0 for ids in result] == [False, True]
