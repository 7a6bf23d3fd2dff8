"""Files of an export that transformers 4 and 5 read alike: rotary settings, padding, template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from jinja2 import Template
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from micro_rm.configs.schema import BackboneConfig, EmbedConfig
from micro_rm.embed.chat import Conversation
from micro_rm.embed.encoder import Encoder, load_encoder
from micro_rm.embed.sources.pair import Message
from micro_rm.serve.export import classifier
from micro_rm.serve.export.classifier import write_classifier
from micro_rm.serve.export.hf_files import (
    add_special_token,
    both_rope_spellings,
    choose_padding,
    classifier_config,
    padding_tokenizer_config,
    pinned_template,
    plain_template,
    portable_config,
    tokenizer_tokens,
)
from micro_rm.serve.export.persona import ExportError
from micro_rm.serve.export.routed import _copy_backbone
from micro_rm.tests.embed.conftest import _make_model, _make_tokenizer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
COMMON = {"architecture": "X", "labels": ["reward"], "pad_id": 7, "dtype": "bfloat16"}


def test_rotary_settings_are_written_as_both_versions_spell_them(tmp_path: Path) -> None:
    """transformers 4 knows rope_theta and rope_scaling only, and defaults to 10000."""
    original = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4}
    written = classifier_config(original | {"rope_parameters": LLAMA3}, vocabulary=9, **COMMON)
    assert written["rope_theta"] == 500000.0
    assert written["rope_scaling"] == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    (tmp_path / "config.json").write_text(json.dumps(written), "utf-8")
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == LLAMA3
    # Settings in the spelling of version 4 are read by 5 and stay unchanged.
    old = original | {"rope_theta": 500000.0, "rope_scaling": written["rope_scaling"]}
    (tmp_path / "config.json").write_text(json.dumps(portable_config(old)), "utf-8")
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == LLAMA3
    assert both_rope_spellings({"n_positions": 9}) == {}


def test_rotary_settings_per_kind_of_layer(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(num_hidden_layers=1)
    parameters = dict(config.to_dict()["rope_parameters"])
    old = both_rope_spellings({"rope_parameters": parameters})
    assert old["rope_theta"] == parameters["full_attention"]["rope_theta"]
    assert old["rope_local_base_freq"] == parameters["sliding_attention"]["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(portable_config(config.to_dict())), "utf-8")
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["rope_parameters"] == parameters
    with pytest.raises(ExportError, match="transformers 4 cannot express"):
        both_rope_spellings({"rope_parameters": {"odd_layers": {"rope_theta": 1.0}}})


def test_a_classifiers_configuration_is_that_of_its_backbone_with_new_labels() -> None:
    original = {
        "model_type": "gemma3",
        "_name_or_path": "/home/me/model",
        "problem_type": "multi_label_classification",
        "id2label": {"0": "a", "1": "b"},
        "dtype": "float32",
        "text_config": {"vocab_size": 5, "pad_token_id": 0},
    }
    found = classifier_config(original, vocabulary=6, **COMMON)
    assert "_name_or_path" not in found and found["id2label"] == {"0": "reward"}
    assert found["problem_type"] == "regression"
    for part in (found, found["text_config"]):
        assert (part["pad_token_id"], part["dtype"], part["torch_dtype"]) == (7, *["bfloat16"] * 2)
    assert found["text_config"]["vocab_size"] == 6
    assert original["text_config"] == {"vocab_size": 5, "pad_token_id": 0}  # not modified


def test_what_openrlhf_wrote_about_another_head_is_dropped() -> None:
    """Kept, these keys make OpenRLHF build a random head of that name and shift every reward."""
    settings = {"value_head_prefix": "value_head", "mean": 0.5, "std": 2.0}
    original = {"model_type": "llama", "normalize_reward": True, **settings}
    found = classifier_config(original, vocabulary=6, **COMMON)
    assert not {"normalize_reward", *settings} & set(found)


def test_padding_never_ends_a_text() -> None:
    reserved, eos = "<|reserved_special_token_0|>", {"<eos>": 0}
    assert choose_padding("<pad>", {"<eos>"}, eos | {"<pad>": 1, reserved: 2}) == ("<pad>", False)
    assert choose_padding("<eos>", {"<eos>"}, eos | {reserved: 2}) == (reserved, False)
    assert choose_padding(None, {"<eos>"}, eos) == ("[PAD]", True)


def test_the_end_of_sequence_is_never_padding_even_if_templates_end_otherwise() -> None:
    vocabulary = {"<eos>": 0, "<end>": 1, "[PAD]": 2}
    tokenizer = SimpleNamespace(
        get_vocab=lambda: vocabulary,
        convert_ids_to_tokens=lambda index: list(vocabulary)[index],
        **{"eos_token": "<eos>", "bos_token": None, "pad_token": "<eos>"},
    )
    renderer = SimpleNamespace(tokenizer=tokenizer, token_ids=lambda _: [np.array([2, 1])])
    files = SimpleNamespace(directory=Path("nowhere"))
    found = classifier._padding_token(SimpleNamespace(renderer=renderer, files=files))
    assert found == ("[PAD]", 2, False)


def test_a_tokenizer_of_version_5_is_written_for_version_4() -> None:
    written = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<a>"],
        "backend": "tokenizers",
        "added_tokens_decoder": {"0": {"content": "<a>"}},
    }
    found = padding_tokenizer_config(written, "[PAD]", 1, new=True)
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert found["additional_special_tokens"] == ["<a>"] and "extra_special_tokens" not in found
    assert found["added_tokens_decoder"]["1"]["content"] == found["pad_token"] == "[PAD]"
    assert found["padding_side"] == "right"
    assert found["model_input_names"] == ["input_ids", "attention_mask"]  # no token types
    assert add_special_token({"added_tokens": []}, "[PAD]", 1)["added_tokens"][0]["id"] == 1


@pytest.fixture
def encoder(tmp_path: Path) -> Callable[..., Encoder]:
    """``encoder(family, dated=None, **settings)``: a saved tiny backbone."""

    def make(family: str, dated: str | None = None, **settings: Any) -> Encoder:
        directory = tmp_path / "backbone"
        tokenizer = _make_tokenizer(family, dated)
        tokenizer.save_pretrained(directory)
        _make_model(family, len(tokenizer)).save_pretrained(directory)
        config = BackboneConfig(name=str(directory), dtype="float32", max_length=256, **settings)
        return load_encoder(config, EmbedConfig(device="cpu"))

    return make


def check_classifier(encoder: Encoder, directory: Path) -> Any:
    """Export three random heads, compare outputs with the encoder's vectors; the tokenizer."""
    heads = np.random.default_rng(0).normal(size=(3, encoder.backbone.width))
    directory.mkdir()
    write_classifier(directory, encoder, heads, ["a", "b", "c"])
    tokenizer = AutoTokenizer.from_pretrained(directory)
    classifier = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    answers = ["Far.", "384,400 km, which is a long way to go.", "Ask the sun."]
    prompt = (Message("user", "How far is the moon?"),)
    ids = encoder.renderer.token_ids([Conversation(prompt, answer) for answer in answers])
    turns = [
        [*(turn._asdict() for turn in prompt), {"role": "assistant", "content": answer}]
        for answer in answers
    ]
    batch = tokenizer.apply_chat_template(
        turns, return_tensors="pt", return_dict=True, padding=True
    )
    for row, mask, wanted in zip(batch["input_ids"], batch["attention_mask"], ids, strict=True):
        assert row[mask.bool()].tolist() == wanted.tolist()
    with torch.inference_mode():
        found = classifier(**batch).logits.numpy()
    assert np.abs(found - encoder.backbone.vectors(ids) @ heads.T).max() < 1e-3
    return tokenizer


@pytest.mark.parametrize(("family", "token"), [("gpt2", "[PAD]"), ("qwen2", "<|endoftext|>")])
def test_a_backbone_without_padding_gets_a_token_of_its_own(
    encoder: Callable[..., Encoder], tmp_path: Path, family: str, token: str
) -> None:
    """Padding with an end-of-turn token would move the read-out one token forward.

    The class of Qwen's tokenizers adds a padding token that these files lack.
    """
    made = encoder(family)
    tokenizer = check_classifier(made, tmp_path / "out")
    assert tokenizer.pad_token == token and tokenizer(f"a{token}")["input_ids"][-1] == (
        tokenizer.pad_token_id
    )
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert config["pad_token_id"] == tokenizer.pad_token_id == config["vocab_size"] - 1
    written = json.loads((tmp_path / "out" / "tokenizer.json").read_text("utf-8"))
    assert token in tokenizer_tokens(written)


@pytest.mark.parametrize("bos", ["auto", "one", "none"])
def test_the_plain_layout_becomes_a_template(
    encoder: Callable[..., Encoder], tmp_path: Path, bos: str
) -> None:
    made = encoder("llama", template="plain", bos=bos)
    check_classifier(made, tmp_path / "out")
    turns = tuple(Message(role, f"{role} says") for role in ("user", "assistant", "user"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(
        [turn._asdict() for turn in turns] + [{"role": "assistant", "content": "yes"}],
        chat_template=plain_template(),
        tokenize=False,
    )
    assert text == made.renderer.text(Conversation(turns, "yes"))


def test_a_template_that_prints_the_date_prints_the_runs(
    encoder: Callable[..., Encoder], tmp_path: Path
) -> None:
    made = encoder("llama", "date_string")
    check_classifier(made, tmp_path / "out")
    _copy_backbone(made, tmp_path / "copy")  # of a routed export
    copied = AutoTokenizer.from_pretrained(
        tmp_path / "copy",
        config=AutoConfig.from_pretrained(tmp_path / "copy" / "backbone_config.json"),
    )
    said = copied.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert made.config.date in said
    tokenizer = _make_tokenizer("llama", "strftime_now")  # the template reads the clock
    tokenizer.chat_template = pinned_template(str(tokenizer.chat_template), "26 Jul 2024")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert "Today Date: 26 Jul 2024<" in text
    # As in Llama 3.1: the template has a default date.
    template = "{% if not date_string is defined %}{% set date_string = 'its own' %}{% endif %}"
    pinned = pinned_template(template + "{{ date_string }}", "26 Jul 2024")
    assert Template(pinned).render() == "26 Jul 2024"
