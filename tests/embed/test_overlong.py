"""Conversations that are too long: refused, or shortened at the prompt's start or at the end."""

from __future__ import annotations

import numpy as np
import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.schema import BackboneConfig
from micro_rm.embed.chat import Conversation, OverlongError, Renderer
from micro_rm.tests.embed.tiny_models import renderer
from micro_rm.tests.embed.token_sequences import talk

LONG = talk(" ".join(f"word{index}" for index in range(60)))
SHORT = Conversation(talk("a"), "b")


def fitted(renderer: Renderer, conversation: Conversation) -> np.ndarray:
    return renderer.fit(conversation, renderer.token_ids([conversation])[0])


def fitted_text(renderer: Renderer, conversation: Conversation) -> str:
    return renderer.tokenizer.decode(fitted(renderer, conversation))


@pytest.mark.parametrize("policy", ["drop", "truncate_prompt", "error"])
def test_what_fits_exactly_is_left_as_it_is(policy: str) -> None:
    ids = renderer("llama").token_ids([SHORT])[0]
    made = renderer("llama", overlong=policy, max_length=len(ids))
    assert made.fit(SHORT, ids) is ids


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_one_token_too_many_is_refused_with_both_lengths(policy: str) -> None:
    ids = renderer("llama").token_ids([SHORT])[0]
    made = renderer("llama", overlong=policy, max_length=len(ids) - 1)
    with pytest.raises(OverlongError, match=f"{len(ids)} tokens.*max_length is {len(ids) - 1}"):
        made.fit(SHORT, ids)


@pytest.mark.parametrize(
    ("name", "limit", "opening", "closing"),
    [
        *(
            ("llama", n, "<|begin_of_text|><|start_header_id|>user<|end_header_id|>", "<|eot_id|>")
            for n in (40, 41)
        ),
        ("qwen2", 55, "<|im_start|>user\n", "<|im_end|>\n"),
        ("gpt2", 100, "", ""),
    ],
)
def test_truncate_prompt_keeps_response_and_layout_and_cuts_the_prompts_start(
    name: str, limit: int, opening: str, closing: str
) -> None:
    made = renderer(name, overlong="truncate_prompt", max_length=limit)
    result = fitted(made, Conversation(LONG, "the answer is fine."))
    assert limit // 2 < len(result) <= limit
    text = made.tokenizer.decode(result)
    assert text.startswith(opening) and text.endswith("the answer is fine." + closing)
    assert "word59" in text and "word0 " not in text


def test_truncate_prompt_shortens_the_longest_turn() -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=80)
    text = fitted_text(made, Conversation(talk("first", "word " * 80, "end"), "fine."))
    assert "first<|eot_id|>" in text and "end<|eot_id|>" in text and "fine.<|eot_id|>" in text


@pytest.mark.parametrize(
    ("name", "form"), [("llama", "header"), ("qwen2", "bare"), ("gpt2", "behind")]
)
def test_truncate_prompt_keeps_the_context(name: str, form: str) -> None:
    made = renderer(name, overlong="truncate_prompt", max_length=60)
    text = fitted_text(made, Conversation(LONG, "fine.", "be brief", form))
    assert "be brief" in text and "word59" in text and "word0 " not in text


@pytest.mark.parametrize(("name", "limit"), [("llama", 45), ("qwen2", 60), ("gpt2", 140)])
def test_truncate_prompt_gives_both_responses_of_a_pair_the_same_prompt(
    name: str, limit: int
) -> None:
    """A difference of two rewards is about the responses only if the prompt is the same."""
    made = renderer(name, overlong="truncate_prompt", max_length=limit)
    short, longer = "fine.", "it is far away." * 3
    prompts = []
    for response, rival in ((short, longer), (longer, short)):
        result = fitted(made, Conversation(LONG, response, rival=rival))
        assert len(result) <= limit
        prompts.append(made.tokenizer.decode(result).partition(response)[0])
    assert prompts[0] == prompts[1]
    assert "word59" in prompts[0] and "word0 " not in prompts[0]


def test_a_rival_changes_nothing_where_everything_fits() -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=256)
    ids = made.token_ids([SHORT])[0]
    assert made.fit(SHORT._replace(rival="c" * 50), ids) is ids


def test_truncate_prompt_does_not_cut_a_response() -> None:
    made = renderer("llama", overlong="truncate_prompt", max_length=40)
    with pytest.raises(OverlongError):
        fitted(made, Conversation(talk("a b c"), "word " * 60))


@pytest.mark.parametrize(("name", "closing"), [("bert", ["[SEP]"]), ("gpt2", [])])
def test_truncate_end_keeps_only_a_closing_token(name: str, closing: list[str]) -> None:
    made = renderer(name, overlong="truncate_end", max_length=20, pooling="mean")
    conversation = Conversation(LONG, "fine.")
    whole, result = made.token_ids([conversation])[0], fitted(made, conversation)
    kept = 20 - len(closing)
    assert result[:kept].tolist() == whole[:kept].tolist()
    assert made.tokenizer.convert_ids_to_tokens(result[kept:].tolist()) == closing


def test_truncate_end_is_refused_for_last_token_read_outs() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.overlong"):
        BackboneConfig(overlong="truncate_end", pooling="last")


def test_long_texts_are_tokenised_in_full_whatever_the_tokenizer_says() -> None:
    for template in ("auto", "plain"):
        made, honest = (renderer("llama", template=template) for _ in range(2))
        made.tokenizer.model_max_length = 16
        conversation = Conversation(LONG)
        (actual,), (expected,) = made.token_ids([conversation]), honest.token_ids([conversation])
        assert actual.tolist() == expected.tolist()
