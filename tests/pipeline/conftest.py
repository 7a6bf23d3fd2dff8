"""A tiny backbone, two raters with opposed tastes, and commands over both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from micro_rm.pipeline import main

TASTES = ("short", "long")
CONTEXTS = {
    "short": {"train": ["be brief", "few words please"], "test": ["keep it terse"]},
    "long": {"train": ["tell me everything", "many words please"], "test": ["go into detail"]},
}


def rows(split: str, prompts: int) -> list[dict[str, Any]]:
    """Pairs of two raters with opposed tastes, on the same two answers to each prompt."""
    made = []
    for number in range(prompts):
        prompt = f"question {split} {number} about the {'garden' if number % 2 else 'kitchen'}"
        answers = {
            "short": f"yes {number}",
            "long": f"yes it is so and here is the whole story {number}",
        }
        for taste in TASTES:
            other = TASTES[1 - TASTES.index(taste)]
            made.append(
                {
                    "prompt": prompt,
                    "chosen": answers[taste],
                    "rejected": answers[other],
                    "attribute": taste,
                }
            )
    return made


def write_jsonl(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    return path


@pytest.fixture(scope="session")
def backbone_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama with a word-level tokenizer, saved as a local directory."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("backbone")
    text = " ".join(json.dumps(row) for row in rows("train", 40) + rows("test", 20))
    text += json.dumps(CONTEXTS)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for word, _ in splitter.pre_tokenize_str(text)})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(
        directory
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    LlamaModel(config).save_pretrained(directory)
    return directory


class Work:
    """Commands of a complete small run in a fresh directory."""

    def __init__(self, place: Path, backbone: Path) -> None:
        self.place = place
        self.write(train=rows("train", 40), test=rows("test", 20))
        (place / "contexts.json").write_text(json.dumps(CONTEXTS), "utf-8")
        self.flags = [
            *(f"--data.{name}={place / name}.jsonl" for name in ("train", "test")),
            f"--data.contexts={place / 'contexts.json'}",
            *(f"--{name}.dir={place / name}" for name in ("store", "run")),
            f"--backbone.name={backbone}",
            "--backbone.dtype=float32",
            "--embed.device=cpu",
            "--methods=single_bt,static_mixture,micro_stage1,micro",
            *("--train.num_heads=3", "--train.epochs=8", "--train.batch_size=16"),
            "--train.seeds=2",
            *("--adapt.draws=2", "--adapt.budget=10"),
        ]

    def write(self, **splits: list[dict[str, Any]]) -> None:
        """The rows of a split, in place of those that are there."""
        for name, content in splits.items():
            write_jsonl(self.place / f"{name}.jsonl", content)

    def do(self, command: str, *words: str) -> int:
        """The exit status of a command; ``words`` win over the flags of every command."""
        return main([command, *self.flags, *words])

    def result(self, name: str) -> Any:
        """A JSON file of the run."""
        return json.loads((self.place / "run" / name).read_text("utf-8"))

    def model(self, run: str = "run") -> bytes:
        return (self.place / run / "model.safetensors").read_bytes()


@pytest.fixture
def work(backbone_dir: Path, tmp_path: Path) -> Work:
    return Work(tmp_path, backbone_dir)


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Run a command that must end with an error for the user; returns the message."""

    def run(argv: list[str]) -> str:
        capsys.readouterr()  # a slow machine has shown the progress of what came before
        assert main(argv) == 2
        message = capsys.readouterr().err
        assert message.startswith("micro-rm: ")
        return message

    return run
