"""Messages to token ids: templates, read-out positions, BOS, dates, the plain layout, contexts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from micro_rm.common.errors import ConfigError
from micro_rm.embed.chat import Conversation, Renderer, TemplateError, with_context
from micro_rm.embed.sources.pair import Message
from micro_rm.tests.embed.tiny_models import renderer
from micro_rm.tests.embed.token_sequences import talk

TEMPLATED = ("llama", "date_string", "no_system", "qwen2")
CONTEXT = "be brief"
SYSTEM = Message("system", "Be kind.")


def ids_of(
    renderer: Renderer, prompt: tuple[Message, ...], response: str | None = None
) -> list[int]:
    return renderer.token_ids([Conversation(prompt, response)])[0].tolist()


def words(renderer: Renderer, ids: Sequence[int]) -> list[str]:
    return renderer.tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize(
    ("name", "turns", "system"),
    [("llama", "a", 0), ("no_system", "abcde", 0), ("date_string", "abc", 1)],
)
def test_a_prompt_ends_with_the_end_of_its_last_turn(name: str, turns: str, system: int) -> None:
    made = renderer(name)
    prompt = words(made, ids_of(made, talk(*turns)))
    assert prompt[-1] == "<|eot_id|>"
    assert prompt[-2].endswith(turns[-1])
    assert prompt.count("<|eot_id|>") == len(turns) + system


@pytest.mark.parametrize(
    ("name", "opening", "closing"),
    [
        ("llama", "<|start_header_id|>", "<|eot_id|>"),
        ("date_string", "<|start_header_id|>", "<|eot_id|>"),
        ("qwen2", "<|im_start|>", "<|im_end|>\n"),
    ],
)
@pytest.mark.parametrize("turns", [("a",), ("a", "b", "c")])
def test_both_read_outs_of_a_prompt_are_prefixes_of_the_conversation(
    name: str, opening: str, closing: str, turns: tuple[str, ...]
) -> None:
    """The read-out of a response does not depend on that of the prompt."""
    at_turn_end, asking = renderer(name), renderer(name, prompt_readout="generation_prompt")
    short, longer = ids_of(at_turn_end, talk(*turns)), ids_of(asking, talk(*turns))
    whole = ids_of(at_turn_end, talk(*turns), "fine.")
    assert ids_of(asking, talk(*turns), "fine.") == whole
    assert whole[: len(short)] == short and words(asking, whole)[len(short)] == opening
    assert len(short) < len(longer) and whole[: len(longer)] == longer
    assert asking.tokenizer.decode(whole[len(longer) :]) == "fine." + closing


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_conversations_do_not_depend_on_each_other(name: str) -> None:
    made = renderer(name)
    responses = (None, "x", "y")
    together = made.token_ids([Conversation(talk("a"), response) for response in responses])
    assert [ids.tolist() for ids in together] == [ids_of(made, talk("a"), r) for r in responses]
    assert together[0].dtype == np.int32


@pytest.mark.parametrize(
    ("name", "template", "bos", "count"),
    [
        ("llama", "auto", "auto", 1),  # the template prints it, and the tokenizer would add it
        ("date_string", "auto", "one", 1),
        ("llama", "auto", "none", 0),
        ("llama", "plain", "auto", 1),
        ("llama", "plain", "none", 0),
        ("gpt2", "auto", "auto", 0),
        ("gpt2", "auto", "one", 1),
        ("qwen2", "auto", "none", 0),  # has none
        ("qwen2", "auto", "auto", 0),
    ],
)
def test_there_are_as_many_bos_as_asked_for_and_nothing_else_changes(
    name: str, template: str, bos: str, count: int
) -> None:
    made = renderer(name, template=template, bos=bos)
    begin = made.tokenizer.bos_token or "none"
    for response in (None, "b"):
        ids = ids_of(made, talk("a", "b", "c"), response)
        assert words(made, ids).count(begin) == count
        assert words(made, ids)[:count] == [begin] * count
        text = made.text(Conversation(talk("a", "b", "c"), response)).removeprefix(begin)
        assert made.tokenizer.decode(ids[count:]) == text


def test_a_template_that_doubles_the_bos_still_gives_one() -> None:
    template = renderer("llama").tokenizer.chat_template
    made = renderer("llama", chat_template="{{ bos_token }}" + template)
    assert ids_of(made, talk("a")) == ids_of(renderer("llama"), talk("a"))


def test_under_a_template_the_tokenizer_adds_no_special_tokens() -> None:
    """A closing token of its own would move the read-out behind the template's end."""
    made = renderer("llama")
    pieces = [made.tokenizer.bos_token, made.tokenizer.eos_token]
    made.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{pieces[0]} $A {pieces[1]}",
        special_tokens=[(piece, made.tokenizer.convert_tokens_to_ids(piece)) for piece in pieces],
    )
    assert made.tokenizer("a")["input_ids"][-1] == made.tokenizer.eos_token_id
    for response in (None, "fine."):
        assert ids_of(made, talk("a"), response) == ids_of(renderer("llama"), talk("a"), response)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("qwen2", {"bos": "one"}, r"backbone\.bos: qwen2 has no BOS token; set it to none"),
        ("gpt2", {"template": "tokenizer"}, r"backbone\.template: .* no chat template"),
    ],
)
def test_what_the_tokenizer_does_not_have_is_refused(
    name: str, settings: dict[str, Any], message: str
) -> None:
    assert renderer("llama", **settings).templated
    with pytest.raises(ConfigError, match=message):
        renderer(name, **settings)


@pytest.mark.parametrize("name", ["date_string", "strftime_now"])
def test_the_date_is_pinned(name: str) -> None:
    text = renderer(name).text(Conversation(talk("a")))
    assert "Today Date: 26 Jul 2024<|eot_id|>" in text
    assert time.strftime("%d %b %Y") not in text
    other = renderer(name, date="01 Jan 2020")
    assert "Today Date: 01 Jan 2020<|eot_id|>" in other.text(Conversation(talk("a")))
    assert other.probe_hash() != renderer(name).probe_hash()


def test_the_template_hash_tells_templates_apart() -> None:
    """Another template is another identity."""
    assert len({renderer(name).template_hash() for name in TEMPLATED}) == len(TEMPLATED)
    assert renderer("gpt2").template_hash() == renderer("bert").template_hash() == "plain"
    assert renderer("llama", template="plain").template_hash() == "plain"


def test_the_probe_hash_sees_what_no_file_hash_shows() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"bos": "none"},
        {"template": "plain"},
        {"prompt_readout": "generation_prompt"},
    ]
    assert len({renderer("llama", **change).probe_hash() for change in changes}) == len(changes)
    same = renderer("llama", date="01 Jan 2020")  # which no template prints
    assert same.probe_hash() == renderer("llama").probe_hash()


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{% if %}"])
def test_a_template_that_refuses_everything_is_an_error_of_the_backbone(template: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.template: .* refuses even a plain"):
        renderer("llama", chat_template=template).probe_hash()


def test_system_turns_are_rendered_where_the_template_knows_them() -> None:
    for name in ("llama", "date_string", "qwen2"):
        text = renderer(name).text(Conversation((SYSTEM, *talk("a"))))
        assert text.index("system") < text.index("Be kind.") < text.index("user")
    with pytest.raises(TemplateError, match="System role not supported"):
        ids_of(renderer("no_system"), (SYSTEM, *talk("a")))


@pytest.mark.parametrize(
    ("prompt", "response", "readout", "expected"),
    [
        (talk("a"), None, "turn_end", "a"),
        (talk("a"), "b", "turn_end", "a\n\nb"),
        (talk("a"), None, "generation_prompt", "a\n\n"),
        (talk(*"abc"), None, "turn_end", "User: a\n\nAssistant: b\n\nUser: c"),
        (talk(*"abc"), "d", "turn_end", "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: d"),
        (
            *(talk(*"abc"), None, "generation_prompt"),
            "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:",
        ),
        ((SYSTEM, *talk("a")), "b", "turn_end", "System: Be kind.\n\nUser: a\n\nAssistant: b"),
    ],
)
def test_the_plain_layout(
    prompt: tuple[Message, ...],
    response: str | None,
    readout: str,
    expected: str,
) -> None:
    made = renderer("gpt2", prompt_readout=readout)
    assert made.text(Conversation(prompt, response)) == expected


def test_an_encoder_gets_its_own_special_tokens() -> None:
    made = renderer("bert")
    tokens = words(made, ids_of(made, talk("How far"), "km"))
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert tokens.count("[CLS]") == tokens.count("[SEP]") == 1


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("header", "[criteria] be brief\n[context] a"),
        ("bare", "be brief\n\na"),
        ("behind", "a be brief"),
    ],
)
def test_the_context_stands_in_the_first_user_turn(form: str, expected: str) -> None:
    prompt, result = (SYSTEM, *talk(*"abc")), (SYSTEM, *talk(expected, *"bc"))
    assert with_context(prompt, CONTEXT, form) == result
    for name in ("llama", "gpt2"):
        text = renderer(name).text(Conversation(prompt, "fine.", CONTEXT, form))
        assert text == renderer(name).text(Conversation(result, "fine."))


@pytest.mark.parametrize("context", [None, ""])
def test_an_empty_context_is_the_plain_view(context: str | None) -> None:
    assert with_context(talk("a", "b", "c"), context, "header") == talk("a", "b", "c")
