"""Exported sequence classifiers: loaded by transformers, they reproduce the run's scores."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

import micro_rm
from micro_rm.configs.export import ExportConfig
from micro_rm.pipeline import main
from micro_rm.serve.export import stage
from micro_rm.serve.export.card import in_line, render_card
from micro_rm.serve.export.classifier import write_classifier
from micro_rm.serve.export.golden import verify_classifier
from micro_rm.serve.export.stage import ExportError, export_run
from micro_rm.serve.model import Model, Score

CONTEXT = "use many words"
PROMPTS = [f"Question {index}: how far is the moon?" for index in range(6)]
RESPONSES = [f"About {index} km." + " It is far." * index for index in range(6)]
TOLERANCE = 1e-4
Exported = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """``exported(**settings)``: directory and metadata of an export, cached per settings."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def make(**settings: Any) -> tuple[Path, dict[str, Any]]:
        key = repr(sorted(settings.items()))
        if key not in made:
            to = tmp_path_factory.mktemp("exports") / "model"
            config = ExportConfig(to=str(to), **settings)
            made[key] = to, export_run(tiny_run, config, device="cpu", say=lambda _: None)
        return made[key]

    return make


def logits(directory: Path, side: str, context: str | None, batch: int = 6) -> np.ndarray:
    """(N, L) outputs of an exported classifier through its own template and tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side=side)
    classifier = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    turns = [
        [
            {"role": "user", "content": f"[criteria] {context}\n[context] {p}" if context else p},
            {"role": "assistant", "content": response},
        ]
        for p, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
    found = []
    for start in range(0, len(turns), batch):
        inputs = tokenizer.apply_chat_template(
            turns[start : start + batch], return_tensors="pt", return_dict=True, padding=True
        )
        with torch.inference_mode():
            found.append(classifier(**inputs).logits)
    return torch.cat(found).numpy()


def scored(model: Model, method: str, context: str | None, **settings: Any) -> list[Score]:
    return model.score(PROMPTS, RESPONSES, [context] * 6, method=method, **settings)


@pytest.mark.parametrize(("side", "batch"), [("right", 6), ("left", 6), ("right", 1)])
def test_a_collapsed_export_gives_the_runs_scores(
    exported: Exported, model: Model, side: str, batch: int
) -> None:
    directory, metadata = exported(context=CONTEXT)
    found = logits(directory, side, CONTEXT, batch)
    weights = metadata["persona"]["weights"]
    expected = [
        np.dot(score.head_rewards, weights) for score in scored(model, metadata["method"], CONTEXT)
    ]
    assert metadata["method"] == "micro" and found.shape == (6, 1)
    assert np.abs(found[:, 0] - expected).max() < TOLERANCE
    assert np.ptp(expected) > 100 * TOLERANCE


def test_weights_of_one_prompt_are_the_routers_own(exported: Exported, model: Model) -> None:
    """A persona averaged over one prompt reproduces the run's score of that prompt."""
    directory, metadata = exported(context=CONTEXT, prompts=PROMPTS[:1], method="micro_kernel")
    expected = scored(model, "micro_kernel", CONTEXT)[0]
    assert np.allclose(metadata["persona"]["weights"], expected.weights, atol=1e-6)
    assert metadata["persona"]["spread"] == 0
    assert abs(logits(directory, "right", CONTEXT)[0, 0] - expected.reward) < TOLERANCE


def test_a_group_gets_the_weights_that_it_was_adapted_to(exported: Exported, model: Model) -> None:
    directory, metadata = exported(group="long")
    expected = scored(model, "micro_hyre", None, groups=["long"] * 6)
    assert metadata["method"] == "micro_hyre"
    found = logits(directory, "right", None)[:, 0]
    assert np.abs(found - [score.reward for score in expected]).max() < TOLERANCE
    others = scored(model, "micro_hyre", None, groups=["brief"] * 6)
    assert np.abs(found - [score.reward for score in others]).max() > 10 * TOLERANCE


def test_a_multihead_export_has_one_named_output_per_head(exported: Exported, model: Model) -> None:
    directory, metadata = exported(tier="multihead")
    found = logits(directory, "left", CONTEXT)
    expected = np.array([score.head_rewards for score in scored(model, "micro", CONTEXT)])
    assert np.abs(found - expected).max() < TOLERANCE
    config = AutoConfig.from_pretrained(directory)
    assert config.num_labels == 3 and len(set(config.id2label.values())) == 3
    assert list(config.id2label.values()) == metadata["heads"]


def test_base_model_and_head_give_the_same_when_loaded_separately(
    exported: Exported, model: Model
) -> None:
    """As OpenRLHF does: padding on the left, explicit positions, pooling by the mask."""
    directory, metadata = exported(context=CONTEXT)
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    base = AutoModel.from_pretrained(directory).eval()
    head = load_file(directory / "model.safetensors")["score.weight"]
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    batch = tokenizer.pad(
        {"input_ids": [item["token_ids"] for item in golden]}, return_tensors="pt"
    )
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        states = base(**batch, position_ids=positions).last_hidden_state[:, -1]
    expected = torch.tensor([item["scores"] for item in golden])
    assert head.dtype == torch.float32 and torch.allclose(states @ head.T, expected, atol=1e-4)
    assert metadata["trial"]["chat_template_exact"]


def test_an_export_with_other_scores_leaves_nothing_behind(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(directory: Path, encoder: Any, heads_LxD: np.ndarray, labels: Any) -> None:
        write_classifier(directory, encoder, heads_LxD * 1.01, labels)

    monkeypatch.setattr(stage, "write_classifier", wrong)
    with pytest.raises(ExportError, match="differ by"):
        export_run(
            tiny_run,
            ExportConfig(to=str(tmp_path / "out"), weights=[0, 0, 1]),
            device="cpu",
            say=lambda _: None,
        )
    assert list(tmp_path.iterdir()) == []


def test_verification_detects_wrong_padding_templates_and_nan(
    exported: Exported, tmp_path: Path
) -> None:
    directory, metadata = exported(context=CONTEXT)
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    assert metadata["trial"]["chat_template_exact"]
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert not verify_classifier(copy, golden, "float32")["chat_template_exact"]
    settings = json.loads((copy / "config.json").read_text("utf-8"))
    # With another padding token than the tokenizer's, a batch is pooled at its padding.
    settings["pad_token_id"] = golden[0]["token_ids"][0]
    (copy / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ExportError, match="differ by"):
        verify_classifier(copy, golden, "float32")
    golden[0]["scores"] = [float("nan")]
    with pytest.raises(ExportError, match="differ by"):
        verify_classifier(directory, golden, "float32")


def test_the_command_writes_a_card_without_paths_of_the_machine(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "out"
    flags = [f"--run.dir={tiny_run}", "--to", str(to), "--embed.device=cpu", "--json"]
    assert main(["export", *flags, f"--export.context={CONTEXT}"]) == 0
    assert json.loads(capsys.readouterr().out)["tier"] == "collapsed"
    for path in to.iterdir():
        text = path.read_bytes()
        assert str(tiny_run.parent).encode() not in text, path
    card = (to / "README.md").read_text("utf-8")
    report = json.loads((tiny_run / "report.json").read_text("utf-8"))
    macro = report["methods"]["micro"]["macro"]
    numbers = [f"{100 * macro[key]:.1f} %" for key in ("accuracy", "low", "high")]
    assert f"| **micro** | context | {numbers[0]} | {numbers[1]} to {numbers[2]} |" in card
    for words in (
        CONTEXT,
        "12 held-out pairs (6 prompts)",
        "Before you use it",
        "unknown: check",
        "Commit of",
    ):
        assert words in card
    assert main(["export", *flags, f"--export.context={CONTEXT}"]) == 2  # not over it
    assert "does not exist or is empty" in capsys.readouterr().err
    # The snippet in the card runs and prints the right score.
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert snippet is not None
    exec(snippet.group(1).replace("path/to/this/directory", str(to)), {})
    printed = re.search(r"-?\d+\.\d+", capsys.readouterr().out)
    expected = micro_rm.load(tiny_run, device="cpu").score(
        ["Explain why the sky is blue."], ["Air scatters blue light."], [CONTEXT], method="micro"
    )
    weights = json.loads((to / "micro_rm.json").read_text("utf-8"))["persona"]["weights"]
    assert printed is not None
    assert abs(float(printed.group()) - np.dot(expected[0].head_rewards, weights)) < TOLERANCE


def test_the_card_of_a_run_that_was_not_evaluated_says_so(exported: Exported, model: Model) -> None:
    _, metadata = exported(context=CONTEXT)
    card = render_card(model, metadata | {"heads": ["head_0", "head_1", "head_2"]}, {})
    assert "The run was not evaluated" in card and "Stage 1: 3 heads" in card
    assert not any(words in card for words in ("named after", "| method |", "Stage 2"))


def test_texts_in_a_card_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_line("a|b\n# c") == r"a\|b \# c"
    assert in_line("<img src=x>[y](z)`") == r"\<img src=x\>\[y\](z)\`"
    assert in_line("a\x1b[2Jb") == r"a\\x1b\[2Jb"
    monkeypatch.setenv("MY_API_KEY", "s3cr3t-value")
    assert "s3cr3t" not in in_line("it is s3cr3t-value")
