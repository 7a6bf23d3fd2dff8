"""Messages to token ids: templates, BOS, date, read-out positions, contexts, lengths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.chat import (
    PROBE,
    PROBE_RESPONSE,
    Conversation,
    OverlongError,
    Renderer,
    TemplateError,
    with_context,
)
from micro_rm.embed.sources.pair import Message

MakeTokenizer = Callable[..., PreTrainedTokenizerFast]
TEMPLATED = ("llama", "date_string", "no_system", "qwen2")
DATE = "26 Jul 2024"
CONTEXT = "be brief"


@pytest.fixture(scope="session")
def renderer(make_tokenizer: MakeTokenizer) -> Callable[..., Renderer]:
    """``renderer(name, **settings)`` for a template name or gpt2, bert."""

    def make(name: str, **changes: Any) -> Renderer:
        family = name if name in ("qwen2", "gpt2", "bert") else "llama"
        tokenizer = make_tokenizer(family, name)
        return Renderer(tokenizer, BackboneConfig(name=name, **changes))

    return make


def talk(*turns: str) -> tuple[Message, ...]:
    """Turns of user and assistant in alternation."""
    return tuple(Message(("user", "assistant")[i % 2], turn) for i, turn in enumerate(turns))


def ids_of(
    renderer: Renderer, prompt: tuple[Message, ...], response: str | None = None
) -> list[int]:
    return renderer.token_ids([Conversation(prompt, response)])[0].tolist()


def words(renderer: Renderer, ids: Sequence[int] | np.ndarray) -> list[str]:
    return renderer.tokenizer.convert_ids_to_tokens([int(token) for token in ids])


# Read-outs


@pytest.mark.parametrize("name", ["llama", "date_string", "no_system"])
@pytest.mark.parametrize("turns", [("a",), ("a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_the_routing_token_ends_the_last_user_turn(
    name: str, turns: tuple[str, ...], renderer: Callable[..., Renderer]
) -> None:
    """The prompt ends with the last user turn's end-of-turn token."""
    made = renderer(name)
    prompt = words(made, ids_of(made, talk(*turns)))
    system = name == "date_string"
    assert prompt[-1] == "<|eot_id|>"
    assert prompt[-2].endswith(turns[-1])
    assert prompt.count("<|eot_id|>") == len(turns) + system


@pytest.mark.parametrize("name", TEMPLATED)
@pytest.mark.parametrize("turns", [("a",), ("a", "b", "c")])
def test_a_prompt_is_a_strict_prefix_of_its_rendered_conversation(
    name: str, turns: tuple[str, ...], renderer: Callable[..., Renderer]
) -> None:
    """What follows the routing token opens the response's header."""
    made = renderer(name)
    prompt, whole = ids_of(made, talk(*turns)), ids_of(made, talk(*turns), "fine.")
    assert whole[: len(prompt)] == prompt
    opening = "<|im_start|>" if name == "qwen2" else "<|start_header_id|>"
    assert words(made, whole)[len(prompt)] == opening


@pytest.mark.parametrize("name", TEMPLATED)
def test_the_generation_prompt_read_out_ends_before_the_first_response_token(
    name: str, renderer: Callable[..., Renderer]
) -> None:
    turn_end = ids_of(renderer(name), talk("a"))
    made = renderer(name, prompt_readout="generation_prompt")
    asking, whole = ids_of(made, talk("a")), ids_of(made, talk("a"), "fine.")
    assert asking[: len(turn_end)] == turn_end
    assert len(asking) > len(turn_end)
    assert whole[: len(asking)] == asking
    assert made.tokenizer.decode(whole[len(asking) :]).startswith("fine.")


@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("readout", ["turn_end", "generation_prompt"])
def test_a_response_ends_with_its_end_of_turn(
    name: str, readout: str, renderer: Callable[..., Renderer]
) -> None:
    """The read-out of a response does not depend on that of the prompt."""
    made = renderer(name, prompt_readout=readout)
    text = made.tokenizer.decode(ids_of(made, talk("a"), "fine."))
    assert text.endswith({"llama": "fine.<|eot_id|>", "qwen2": "fine.<|im_end|>\n"}[name])


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert"])
def test_a_prompt_does_not_depend_on_any_response(
    name: str, renderer: Callable[..., Renderer]
) -> None:
    made = renderer(name)
    together = made.token_ids(
        [Conversation(talk("a")), Conversation(talk("a"), "x"), Conversation(talk("a"), "y")]
    )
    assert together[0].tolist() == ids_of(made, talk("a"))
    assert together[1].tolist() == ids_of(made, talk("a"), "x")
    assert together[0].dtype == np.int32


# BOS


@pytest.mark.parametrize("name", ["llama", "date_string", "no_system"])
@pytest.mark.parametrize("bos", ["auto", "one"])
def test_there_is_exactly_one_bos_under_a_template_that_prints_it(
    name: str, bos: str, renderer: Callable[..., Renderer]
) -> None:
    """The tokenizer would add a second one, as the official training did."""
    made = renderer(name, bos=bos)
    tokenizer = made.tokenizer
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    for response in (None, "fine."):
        ids = ids_of(made, talk("a", "b", "c"), response)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


def test_bos_none_removes_it_and_changes_nothing_else(renderer: Callable[..., Renderer]) -> None:
    with_one, without = renderer("llama"), renderer("llama", bos="none")
    assert ids_of(without, talk("a"), "b") == ids_of(with_one, talk("a"), "b")[1:]


def test_a_template_that_doubles_the_bos_still_gives_one(
    renderer: Callable[..., Renderer],
) -> None:
    made = renderer("llama")
    made.tokenizer.chat_template = "{{ bos_token }}" + made.tokenizer.chat_template
    assert ids_of(made, talk("a")) == ids_of(renderer("llama"), talk("a"))


def test_under_a_template_the_tokenizer_adds_no_special_tokens(
    renderer: Callable[..., Renderer],
) -> None:
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


@pytest.mark.parametrize(("bos", "count"), [("auto", 0), ("none", 0), ("one", 1)])
def test_bos_of_a_tokenizer_that_adds_none(
    bos: str, count: int, renderer: Callable[..., Renderer]
) -> None:
    made = renderer("gpt2", bos=bos)
    ids = ids_of(made, talk("a"), "b")
    assert ids.count(made.tokenizer.bos_token_id) == count
    assert ids[count:] == ids_of(renderer("gpt2"), talk("a"), "b")


@pytest.mark.parametrize(("bos", "count"), [("auto", 1), ("none", 0), ("one", 1)])
def test_bos_of_a_tokenizer_that_adds_one_without_a_template(
    bos: str, count: int, renderer: Callable[..., Renderer]
) -> None:
    made = renderer("llama", template="plain", bos=bos)
    ids = ids_of(made, talk("a"), "b")
    assert ids.count(made.tokenizer.bos_token_id) == count
    assert made.tokenizer.decode(ids[count:]) == "a\n\nb"


@pytest.mark.parametrize("bos", ["auto", "none"])
def test_a_tokenizer_without_bos_is_left_alone(bos: str, renderer: Callable[..., Renderer]) -> None:
    assert words(renderer("qwen2"), ids_of(renderer("qwen2", bos=bos), talk("a")))[0] == (
        "<|im_start|>"
    )


def test_one_bos_is_refused_where_the_tokenizer_has_none(
    renderer: Callable[..., Renderer],
) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.bos: qwen2 has no BOS token"):
        renderer("qwen2", bos="one")


# Templates and dates


@pytest.mark.parametrize("name", ["date_string", "strftime_now"])
def test_the_date_is_pinned(name: str, renderer: Callable[..., Renderer]) -> None:
    text = renderer(name).text(Conversation(talk("a")))
    assert f"Today Date: {DATE}<|eot_id|>" in text
    assert time.strftime("%d %b %Y") not in text
    other = renderer(name, date="01 Jan 2020")
    assert "Today Date: 01 Jan 2020<|eot_id|>" in other.text(Conversation(talk("a")))
    assert other.probe_hash() != renderer(name).probe_hash()


def test_the_date_changes_nothing_where_no_template_prints_it(
    renderer: Callable[..., Renderer],
) -> None:
    assert renderer("llama", date="01 Jan 2020").probe_hash() == renderer("llama").probe_hash()


def test_the_template_hash_tells_templates_apart(renderer: Callable[..., Renderer]) -> None:
    """Another template is another identity."""
    hashes = {renderer(name).template_hash() for name in TEMPLATED}
    assert len(hashes) == len(TEMPLATED)
    assert renderer("gpt2").template_hash() == renderer("bert").template_hash() == "plain"
    assert renderer("llama", template="plain").template_hash() == "plain"


@pytest.mark.parametrize(
    "changes", [{"bos": "none"}, {"template": "plain"}, {"prompt_readout": "generation_prompt"}]
)
def test_the_probe_hash_sees_what_no_file_hash_shows(
    changes: dict[str, Any], renderer: Callable[..., Renderer]
) -> None:
    assert renderer("llama", **changes).probe_hash() != renderer("llama").probe_hash()
    assert renderer("llama").probe_hash() == renderer("llama").probe_hash()


def test_the_probe_is_a_conversation_of_several_turns() -> None:
    assert [turn.role for turn in PROBE] == ["user", "assistant", "user"]
    assert PROBE_RESPONSE


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_template_is_demanded_only_where_there_is_one(
    name: str, renderer: Callable[..., Renderer]
) -> None:
    assert not renderer(name).templated
    with pytest.raises(ConfigError, match=r"backbone\.template: .* no chat template"):
        renderer(name, template="tokenizer")
    assert renderer("llama", template="tokenizer").templated


def test_a_template_that_refuses_system_turns_says_so(renderer: Callable[..., Renderer]) -> None:
    made = renderer("no_system")
    ids_of(made, talk("a"))
    with pytest.raises(TemplateError, match="System role not supported"):
        ids_of(made, (Message("system", "s"), *talk("a")))


@pytest.mark.parametrize("name", ["llama", "date_string", "qwen2"])
def test_system_turns_are_rendered_where_the_template_knows_them(
    name: str, renderer: Callable[..., Renderer]
) -> None:
    text = renderer(name).text(Conversation((Message("system", "Be kind."), *talk("a"))))
    assert "system" in text and text.index("Be kind.") < text.index("user")


# The plain layout


@pytest.mark.parametrize(
    ("prompt", "response", "readout", "expected"),
    [
        (talk("a"), None, "turn_end", "a"),
        (talk("a"), "b", "turn_end", "a\n\nb"),
        (talk("a"), None, "generation_prompt", "a\n\n"),
        (talk("a", "b", "c"), None, "turn_end", "User: a\n\nAssistant: b\n\nUser: c"),
        (
            talk("a", "b", "c"),
            "d",
            "turn_end",
            "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant: d",
        ),
        (
            talk("a", "b", "c"),
            None,
            "generation_prompt",
            "User: a\n\nAssistant: b\n\nUser: c\n\nAssistant:",
        ),
        (
            (Message("system", "s"), Message("user", "a")),
            "b",
            "turn_end",
            "System: s\n\nUser: a\n\nAssistant: b",
        ),
    ],
)
def test_the_plain_layout(
    prompt: tuple[Message, ...],
    response: str | None,
    readout: str,
    expected: str,
    renderer: Callable[..., Renderer],
) -> None:
    made = renderer("gpt2", prompt_readout=readout)
    assert made.text(Conversation(prompt, response)) == expected


def test_an_encoder_gets_its_own_special_tokens(renderer: Callable[..., Renderer]) -> None:
    made = renderer("bert")
    tokens = words(made, ids_of(made, talk("How far"), "km"))
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert tokens.count("[CLS]") == tokens.count("[SEP]") == 1


# Contexts


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("header", "[criteria] be brief\n[context] a"),
        ("bare", "be brief\n\na"),
        ("behind", "a be brief"),
    ],
)
def test_the_context_stands_in_the_first_user_turn(form: str, expected: str) -> None:
    system = Message("system", "s")
    result = with_context((system, *talk("a", "b", "c")), CONTEXT, form)
    assert result == (system, Message("user", expected), *talk("a", "b", "c")[1:])


@pytest.mark.parametrize("form", ["header", "bare", "behind"])
@pytest.mark.parametrize("context", [None, ""])
def test_an_empty_context_is_the_plain_view(form: str, context: str | None) -> None:
    assert with_context(talk("a", "b", "c"), context, form) == talk("a", "b", "c")


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert"])
@pytest.mark.parametrize("context", [None, ""])
@pytest.mark.parametrize("response", [None, "fine."])
def test_an_empty_context_gives_the_plain_tokens(
    name: str, context: str | None, response: str | None, renderer: Callable[..., Renderer]
) -> None:
    made = renderer(name)
    (result,) = made.token_ids([Conversation(talk("a", "b", "c"), response, context)])
    assert result.tolist() == ids_of(made, talk("a", "b", "c"), response)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert"])
def test_the_context_is_inside_the_conversation_that_the_backbone_reads(
    name: str, renderer: Callable[..., Renderer]
) -> None:
    made = renderer(name)
    plain = made.text(Conversation(talk("tell me"), "fine."))
    header = made.text(Conversation(talk("tell me"), "fine.", CONTEXT))
    bare = made.text(Conversation(talk("tell me"), "fine.", CONTEXT, "bare"))
    assert header == plain.replace("tell me", "[criteria] be brief\n[context] tell me")
    assert bare == plain.replace("tell me", "be brief\n\ntell me")


# Lengths


def long_prompt(number: int = 60) -> tuple[Message, ...]:
    return talk(" ".join(f"word{index}" for index in range(number)))


@pytest.mark.parametrize("policy", ["drop", "truncate_prompt", "error"])
def test_what_fits_is_left_as_it_is(policy: str, renderer: Callable[..., Renderer]) -> None:
    made = renderer("llama", overlong=policy, max_length=256)
    conversation = Conversation(talk("a"), "b")
    ids = made.token_ids([conversation])[0]
    exact = renderer("llama", overlong=policy, max_length=len(ids))
    assert made.fit(conversation, ids) is ids
    assert exact.fit(conversation, ids) is ids


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_one_token_too_many_is_refused_with_both_lengths(
    policy: str, renderer: Callable[..., Renderer]
) -> None:
    conversation = Conversation(long_prompt(), "b")
    ids = renderer("llama").token_ids([conversation])[0]
    made = renderer("llama", overlong=policy, max_length=len(ids) - 1)
    with pytest.raises(OverlongError, match=f"{len(ids)} tokens.*max_length is {len(ids) - 1}"):
        made.fit(conversation, ids)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("limit", [40, 41, 55, 100])
def test_truncate_prompt_keeps_response_and_layout_and_cuts_the_prompts_start(
    name: str, limit: int, renderer: Callable[..., Renderer]
) -> None:
    made = renderer(name, overlong="truncate_prompt", max_length=limit)
    conversation = Conversation(long_prompt(), "the answer is fine.")
    whole = made.token_ids([conversation])[0]
    result = made.fit(conversation, whole)
    assert limit // 2 < len(result) <= limit < len(whole)
    text = made.tokenizer.decode(result)
    ending = {"llama": "<|eot_id|>", "qwen2": "<|im_end|>\n", "gpt2": ""}[name]
    assert text.endswith("the answer is fine." + ending)
    assert "word59" in text and "word0 " not in text
    opening = {
        "llama": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>",
        "qwen2": "<|im_start|>user\n",
        "gpt2": "",
    }
    assert text.startswith(opening[name])


def test_truncate_prompt_shortens_the_longest_turn(renderer: Callable[..., Renderer]) -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=80)
    prompt = (Message("user", "first"), Message("assistant", "word " * 80), Message("user", "end"))
    conversation = Conversation(prompt, "fine.")
    text = made.tokenizer.decode(made.fit(conversation, made.token_ids([conversation])[0]))
    assert "first<|eot_id|>" in text and "end<|eot_id|>" in text and "fine.<|eot_id|>" in text


@pytest.mark.parametrize("form", ["header", "bare", "behind"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_truncate_prompt_keeps_the_context(
    name: str, form: str, renderer: Callable[..., Renderer]
) -> None:
    made = renderer(name, overlong="truncate_prompt", max_length=60)
    conversation = Conversation(long_prompt(), "fine.", CONTEXT, form)
    text = made.tokenizer.decode(made.fit(conversation, made.token_ids([conversation])[0]))
    assert CONTEXT in text and "word59" in text and "word0 " not in text


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("limit", [45, 60, 140])
def test_truncate_prompt_gives_both_responses_of_a_pair_the_same_prompt(
    name: str, limit: int, renderer: Callable[..., Renderer]
) -> None:
    """A difference of two rewards is about the responses only if the prompt is the same."""
    made = renderer(name, overlong="truncate_prompt", max_length=limit)
    short, longer = "fine.", "it is far away." * 3
    prompts = []
    for response, rival in ((short, longer), (longer, short)):
        conversation = Conversation(long_prompt(), response, rival=rival)
        result = made.fit(conversation, made.token_ids([conversation])[0])
        assert len(result) <= limit
        prompts.append(made.tokenizer.decode(result).partition(response)[0])
    assert prompts[0] == prompts[1]
    assert "word59" in prompts[0] and "word0 " not in prompts[0]


def test_a_rival_changes_nothing_where_everything_fits(renderer: Callable[..., Renderer]) -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=256)
    conversation = Conversation(talk("a"), "b", rival="c" * 50)
    ids = made.token_ids([conversation])[0]
    assert made.fit(conversation, ids) is ids
    assert ids.tolist() == ids_of(made, talk("a"), "b")


def test_truncate_prompt_does_not_cut_a_response(renderer: Callable[..., Renderer]) -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=40)
    conversation = Conversation(talk("a b c"), "word " * 60)
    with pytest.raises(OverlongError):
        made.fit(conversation, made.token_ids([conversation])[0])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_truncate_end_keeps_the_closing_token(
    pooling: str, renderer: Callable[..., Renderer]
) -> None:
    made = renderer("bert", overlong="truncate_end", max_length=20, pooling=pooling)
    conversation = Conversation(long_prompt(), "fine.")
    whole = made.token_ids([conversation])[0]
    result = made.fit(conversation, whole)
    assert len(result) == 20
    assert result[:-1].tolist() == whole[:19].tolist()
    assert words(made, result)[-1] == "[SEP]"


def test_truncate_end_cuts_bare_text_at_the_limit(renderer: Callable[..., Renderer]) -> None:
    made = renderer("gpt2", overlong="truncate_end", max_length=20, pooling="mean")
    conversation = Conversation(long_prompt(), "fine.")
    whole = made.token_ids([conversation])[0]
    assert made.fit(conversation, whole).tolist() == whole[:20].tolist()


def test_truncate_end_is_refused_for_last_token_read_outs() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.overlong"):
        BackboneConfig(overlong="truncate_end", pooling="last")


def test_long_texts_are_tokenised_in_full_whatever_the_tokenizer_says(
    renderer: Callable[..., Renderer],
) -> None:
    made = renderer("llama")
    made.tokenizer.model_max_length = 16
    assert ids_of(made, long_prompt()) == ids_of(renderer("llama"), long_prompt())
