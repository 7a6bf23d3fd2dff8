"""Routed exports: their own code reproduces the run's scores, and nothing else loads them."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from micro_rm.configs.export import ExportConfig
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.scoring import Scorer
from micro_rm.serve.export.fixed_texts import CONTEXT
from micro_rm.serve.export.golden import _load_reward_funcs
from micro_rm.serve.export.persona import raw_heads
from micro_rm.serve.export.routed import routed_tensors
from micro_rm.serve.export.stage import export_run
from micro_rm.serve.model import Model

PROMPTS = [f"Question {index // 2}: how far is the moon?" for index in range(6)]
RESPONSES = [f"About {index} km." + " It is far." * index for index in range(6)]
Exported = Callable[[str], tuple[Path, Any]]
CONTEXTS = ["be brief", None, "use many words", "", "be brief", "something else"]


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """``exported(method)``: a routed export and its ``reward_funcs`` module, cached."""
    made: dict[str, tuple[Path, Any]] = {}

    def make(method: str) -> tuple[Path, Any]:
        if method not in made:
            to = tmp_path_factory.mktemp("routed") / "model"
            config = ExportConfig(to=str(to), tier="routed", method=method)
            export_run(tiny_run, config, device="cpu", say=lambda _: None)
            made[method] = to, _load_reward_funcs(to)
        return made[method]

    return make


@pytest.mark.parametrize("method", ["micro", "micro_kernel", "static_mixture"])
def test_a_routed_export_gives_the_runs_scores(
    exported: Exported, model: Model, method: str
) -> None:
    directory, code = exported(method)
    found = code.RoutedReward(directory, device="cpu", batch_size=4)(PROMPTS, RESPONSES, CONTEXTS)
    expected = model.score(PROMPTS, RESPONSES, CONTEXTS, method=method)
    for key, values in (
        ("reward", found.reward),
        ("weights", found.weights),
        ("head_rewards", found.head_rewards),
    ):
        gap = np.abs(values.numpy() - np.array([getattr(score, key) for score in expected]))
        assert gap.max() < 1e-4, key
    golden = json.loads((directory / "golden.json").read_text("utf-8"))
    assert {item["context"] for item in golden} == {None, CONTEXT}, (
        "verified with and without a context"
    )
    assert directory.stat().st_mode & 0o555 == 0o555, "readable for others, as usual"
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in directory.rglob("*"))
    if method == "micro_kernel":  # weights that vary, or nothing was tested
        assert np.ptp(found.weights.numpy(), axis=0).max() > 1e-2


def test_the_reward_function_keeps_to_trls_convention(exported: Exported, model: Model) -> None:
    """Texts or messages, columns by name, unknown columns ignored."""
    _, code = exported("micro")
    expected = [score.reward for score in model.score(PROMPTS, RESPONSES, CONTEXTS, method="micro")]
    extra = {"completion_ids": [[0]] * 6, "trainer_state": None, "context": CONTEXTS}
    plain = code.reward(prompts=PROMPTS, completions=RESPONSES, **extra)
    chats = code.reward(
        prompts=[[{"role": "user", "content": prompt}] for prompt in PROMPTS],
        completions=[[{"role": "assistant", "content": text}] for text in RESPONSES],
        context=CONTEXTS,
    )
    assert code.reward.__name__ == "reward"
    for found in (plain, chats):
        assert all(isinstance(value, float) for value in found)
        assert np.abs(np.array(found) - expected).max() < 1e-4
    without = [score.reward for score in model.score(PROMPTS, RESPONSES, method="micro")]
    assert np.abs(np.array(code.reward(PROMPTS, RESPONSES)) - without).max() < 1e-4
    turns = [
        {"role": "user", "content": "How far?"},
        {"role": "assistant", "content": "What?"},
        {"role": "user", "content": "The moon."},
    ]
    (long,) = code.reward([turns], [RESPONSES[0]], context=["be brief"])
    (score,) = model.score([turns], [RESPONSES[0]], ["be brief"], method="micro")
    assert abs(long - score.reward) < 1e-4
    # Of a completion with several turns, as in tool use or dialogue, the last one is scored.
    said = [*turns[1:], {"role": "assistant", "content": RESPONSES[0]}]
    assert code.reward([turns[:1]], [said], context=["be brief"]) == [long]
    with pytest.raises(ValueError, match="1 to 256 tokens, found"):
        code.reward(["far " * 300], ["yes"])


def test_nothing_else_loads_a_routed_export(exported: Exported, tmp_path: Path) -> None:
    directory, code = exported("micro")
    with pytest.raises(ValueError, match="micro_rm_routed"):
        AutoModelForSequenceClassification.from_pretrained(directory)
    with pytest.raises((ValueError, OSError)):
        AutoModelForSequenceClassification.from_pretrained(directory / "backbone")
    heads = code.RoutedReward.__init__.__globals__["RoutedHeads"]
    files = ("micro_rm.json", "heads.safetensors", "router.safetensors")
    for name in files:
        shutil.copyfile(directory / name, tmp_path / name)
    heads.from_directory(tmp_path)
    data = bytearray((tmp_path / files[2]).read_bytes())
    data[-1] ^= 1
    (tmp_path / files[2]).write_bytes(data)
    with pytest.raises(ValueError, match="expected sha256"):
        heads.from_directory(tmp_path)
    (tmp_path / files[2]).unlink()
    with pytest.raises(FileNotFoundError, match="missing; copy the whole export"):
        heads.from_directory(tmp_path)
    settings = json.loads((tmp_path / files[0]).read_text("utf-8"))
    with pytest.raises(ValueError, match="found tier routed in format 99"):
        (tmp_path / files[0]).write_text(json.dumps(settings | {"format": 99}))
        heads.from_directory(tmp_path)


def random_scorer(kind: str) -> Scorer:
    """A random method ``micro`` or ``micro_kernel`` with 3 heads, 2 draws and feature scaling."""
    draw = np.random.default_rng(3).normal

    def leaf(*shape: int) -> np.ndarray:
        return draw(size=shape).astype(np.float32)

    scaler = Scaler(np.exp(leaf(8)), leaf(8), np.exp(leaf(8)))
    output = {"kernel": leaf(2, 8, 3), "bias": leaf(2, 3)}
    routers = {
        "static": {"logits": leaf(2, 3)},
        "linear": {"output": output},
        "mlp": {
            "hidden": {"kernel": leaf(2, 8, 5), "bias": leaf(2, 5)},
            "output": output | {"kernel": leaf(2, 5, 3)},
        },
        "kernel": {
            "input_mean": scaler.router_mean_D,
            "input_scale": scaler.router_scale_D,
            "centre": leaf(2, 8),
            "projection": leaf(8, 4),
            "kernel": leaf(2, 12, 3),
            "intercept": leaf(2, 3),
        },
    }
    settings: dict[str, Any] = {"tau": 0.5}
    if kind != "kernel":
        settings = {"spec": {"width": 8, "num_heads": 3, "router": kind, "router_units": 5}}
    params = {"heads": {"kernel": leaf(8, 3)}, "router": routers[kind]}
    name = "micro_kernel" if kind == "kernel" else "micro"
    return Scorer({name: Trained(params, settings)}, scaler)


@pytest.mark.parametrize("kind", ["static", "linear", "mlp", "kernel"])
def test_every_kind_of_router_is_computed_from_unscaled_vectors(
    exported: Exported, kind: str
) -> None:
    _, code = exported("micro")
    scorer = random_scorer(kind)
    (name,) = scorer.names
    response, prompt = np.random.default_rng(4).normal(size=(2, 5, 8)).astype(np.float32)
    expected = scorer.score(name, response, prompt)
    heads, router, found_kind = routed_tensors(scorer, name)
    settings = {"router": found_kind, "tau": 0.5, "heads": ["a", "b", "c"]}
    module = code.RoutedHeads(
        settings,
        {key: torch.from_numpy(value) for key, value in heads.items()},
        {key: torch.from_numpy(value) for key, value in router.items()},
    )
    found = module(torch.from_numpy(response), torch.from_numpy(prompt))
    assert np.abs(found.weights.numpy() - expected.weights_NxK).max() < 1e-5
    assert np.abs(found.head_rewards.numpy() - expected.rewards_NxK).max() < 1e-4
    assert np.abs(found.reward.numpy() - expected.reward_N).max() < 1e-4
    # The other two tiers fold the scaling into the heads.
    folded = response @ raw_heads(scorer, name).T
    assert np.abs(folded - expected.rewards_NxK).max() < 1e-4
    with pytest.raises(ValueError, match=r"expected \(5, 8\), found \(4, 8\)"):
        module(torch.from_numpy(response), torch.from_numpy(prompt[:4]))
    with pytest.raises(ValueError, match=r"router.safetensors: expected the tensors"):
        code.RoutedHeads(settings, {}, {})


@pytest.mark.parametrize(
    ("asks", "one", "several"),
    [
        (False, "Hi?", "User: Hi?\n\nAssistant: Yes."),
        (True, "Hi?\n\n", "User: Hi?\n\nAssistant: Yes.\n\nAssistant:"),
    ],
)
def test_without_a_template_turns_are_joined_by_blank_lines(
    exported: Exported, asks: bool, one: str, several: str
) -> None:
    _, code = exported("micro")
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]
    assert code._plain(turns[:1], True, asks) == one
    assert code._plain(turns, True, False) == "Hi?\n\nYes."
    assert code._plain(turns, False, asks) == several


def test_the_code_of_an_export_needs_torch_and_transformers_only(repository: Path) -> None:
    allowed = {
        "modeling_routed.py": {"torch", "safetensors"},
        "reward_funcs.py": {"torch", "transformers", "jinja2", "modeling_routed"},
    }
    found = {
        path.name: path for path in (repository / "serve" / "export" / "exported").glob("*.py")
    }
    assert set(found) == set(allowed)
    for name, path in found.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, name
                names.add(str(node.module).partition(".")[0])
        assert names - set(sys.stdlib_module_names) <= allowed[name]
