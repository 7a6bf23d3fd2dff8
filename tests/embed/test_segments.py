"""Stretches between special tokens: the ids of whole texts, with less to tokenise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from micro_rm.embed.segments import CHECKED_TEXTS, SegmentTokenizer

MARKS = {
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "qwen2": ["<|im_start|>", "<|im_end|>"],
}


def whole(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def cut(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [ids.tolist() for ids in SegmentTokenizer(tokenizer).token_ids(texts)]


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """Like Llama 2: words carry the space in front of them, maybe only the first of a text."""
    words = {word: n for n, word in enumerate(["<unk>", "</s>", "▁a", "a", "▁", "b", "▁b"])}
    inner = Tokenizer(models.BPE(words, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


@pytest.mark.long
@pytest.mark.parametrize("family", MARKS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_cut_texts_have_the_ids_of_whole_texts(
    family: str, data: st.DataObject, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer(family)
    words = st.sampled_from(["moon", " far", "\n\n", " ", "é", "日", "<|", "eot_id|>", "", "'s"])
    parts = st.one_of(st.sampled_from(MARKS[family]), words, st.text(max_size=5))
    text = st.lists(parts, max_size=12).map("".join)
    texts = data.draw(st.lists(text, min_size=1, max_size=6))
    assert SegmentTokenizer(tokenizer).cuts
    assert cut(tokenizer, texts) == whole(tokenizer, texts)


def test_a_stretch_is_tokenised_once(make_tokenizer: Callable[..., Any]) -> None:
    segments = SegmentTokenizer(make_tokenizer("llama"))
    # After these texts the comparison with whole texts is over.
    segments.token_ids(["first<|eot_id|>"] * CHECKED_TEXTS)
    asked: list[str] = []
    original = segments._whole
    segments._whole = lambda texts: asked.extend(texts) or original(texts)
    segments.token_ids([f"the prompt<|eot_id|>answer {n}<|eot_id|>" for n in range(3)])
    assert sorted(asked) == ["answer 0", "answer 1", "answer 2", "the prompt"]


@pytest.mark.parametrize(("scheme", "cuts"), [("first", False), ("always", True), ("never", True)])
def test_texts_stay_whole_where_the_first_word_is_spelled_differently(
    scheme: str, cuts: bool
) -> None:
    tokenizer = metaspace(scheme)
    assert SegmentTokenizer(tokenizer).cuts is cuts
    texts = ["a b</s>a b</s>", "</s>b", "a</s> a"]
    assert cut(tokenizer, texts) == whole(tokenizer, texts)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_tokens_that_look_at_their_neighbours_are_no_cut(
    flag: str, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer("llama")
    token = AddedToken("<sep>", special=True, **({"normalized": False} | {flag: True}))
    tokenizer.add_special_tokens({"extra_special_tokens": [token]})
    segments = SegmentTokenizer(tokenizer)
    assert "<sep>" not in segments._cut_ids
    texts = ["a <sep> b<|eot_id|>c<sep>d", "x<sep>"]
    assert cut(tokenizer, texts) == whole(tokenizer, texts)


def test_a_tokenizer_that_differs_when_cut_gets_whole_texts(
    make_tokenizer: Callable[..., Any],
) -> None:
    segments = SegmentTokenizer(make_tokenizer("llama"))
    original = segments._whole
    # Somebody's tokenizer that counts the texts' beginnings.
    segments._whole = lambda texts: [np.append(ids, np.int32(7)) for ids in original(texts)]
    actual = segments.token_ids(["moon<|eot_id|>", "sun<|eot_id|>far"])
    assert not segments.cuts
    assert [ids.tolist() for ids in actual] == [
        [*ids.tolist(), 7] for ids in original(["moon<|eot_id|>", "sun<|eot_id|>far"])
    ]


def test_texts_of_nothing_have_no_ids(make_tokenizer: Callable[..., Any]) -> None:
    segments = SegmentTokenizer(make_tokenizer("llama"))
    assert [ids.tolist() for ids in segments.token_ids(["", "<|eot_id|>"])] == [
        [],
        whole(segments._tokenizer, ["<|eot_id|>"])[0],
    ]
    assert all(ids.dtype == np.int32 for ids in segments.token_ids(["", "a"]))
    assert segments.token_ids([]) == []
