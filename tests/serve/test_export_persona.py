"""What is exported: a method, its persona and the names of its heads, or an error with a remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micro_rm.common.errors import ConfigError, UserError
from micro_rm.configs.export import ExportConfig
from micro_rm.heads.features import Scaler
from micro_rm.heads.methods.interface import Trained
from micro_rm.heads.scoring import Scorer
from micro_rm.serve.export import persona, stage
from micro_rm.serve.export.classifier import write_classifier
from micro_rm.serve.export.persona import choose_persona, raw_heads
from micro_rm.serve.export.stage import ExportError, export_run
from micro_rm.serve.model import Model
from micro_rm.serve.names import head_names

CONTEXT, PROMPTS = "use many words", ["Question 0", "Question 1"]
TOLERANCE = 1e-4


def test_a_persona_states_its_origin_and_spread(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = choose_persona(model, "micro", ExportConfig(weights=[0.0, 0.25, 0.75]))
    assert numbers.weights_K.tolist() == [0.0, 0.25, 0.75]
    apart = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    monkeypatch.setattr(persona, "_router_weights", lambda *_: apart)
    wished = choose_persona(model, "micro", ExportConfig(context=CONTEXT, prompts=PROMPTS[:2]))
    assert wished.weights_K.tolist() == [0.5, 0.5, 0.0] and wished.spread == 0.5
    assert "2 given prompts with the context" in wished.origin
    monkeypatch.setattr(model, "views", replace(model.views, adapt_router="context"))
    alone = choose_persona(model, "micro", ExportConfig(context=CONTEXT))
    assert "its only input" in alone.origin and alone.spread == 0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"to": None}, "export.to: expected a directory to write"),
    ({"to": "run/export"}, "outside of the run"),
    ({"to": "full", "weights": [1.0]}, "does not exist or is empty"),
    ({"to": "pointer", "weights": [1.0]}, "does not exist or is empty"),
    ({"method": "dpl", "context": CONTEXT}, "export.method: expected a method of the run"),
    ({"method": "micro"}, "give export.context"),
    ({"method": "micro_hyre"}, "give one of brief, long, or export.weights"),
    ({"group": "nobody"}, "expected a group that a method was adapted to"),
    ({"method": "micro", "group": "long"}, r"that micro was adapted to \(none\), found 'long'"),
    ({"weights": [0.5, 0.5]}, "expected 3 weights, one per head of micro_stage1, found 2"),
    ({"context": "as hf_abcdefghijklmnopqrstuvwx says"}, "token or a password"),
    ({"tier": "routed", "method": "micro_hyre"}, "needs a method with a router"),
]


def test_invalid_exports_are_refused_with_a_remedy_and_leave_nothing_behind(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "load", lambda *_args, **_settings: model)
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "file").write_text("mine")
    Path("pointer").symlink_to("nowhere")
    Path("run").symlink_to(model.run)
    before = sorted(tmp_path.iterdir())
    for settings, message in REFUSED:
        with pytest.raises(UserError, match=message):
            export_run(Path("run"), ExportConfig(**({"to": "out"} | settings)), say=lambda _: None)
    assert sorted(tmp_path.iterdir()) == before


def test_an_encoder_is_refused_as_a_classifier() -> None:
    encoder: Any = SimpleNamespace(
        backbone=SimpleNamespace(pooling="mean"), config=SimpleNamespace(name="encoder")
    )
    with pytest.raises(ExportError, match=r"found mean pooling of encoder; use tier routed"):
        write_classifier(Path(), encoder, np.zeros((1, 4)), ["reward"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": "a", "group": "b"}, "one of context, group and weights"),
        ({"tier": "multihead", "context": "a"}, "tier collapsed"),
        ({"group": "b", "prompts": ["a"]}, "nothing beside group"),
        ({"weights": [0.5, 0.4]}, "sum to 1"),
        ({"weights": [1.5, -0.5]}, "sum to 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ExportConfig(**settings)


def test_a_method_of_one_head_needs_no_weights() -> None:
    draw = np.random.default_rng(5).normal
    scaler = Scaler(*np.exp(draw(size=(3, 8))).astype(np.float32))
    scorer = Scorer({"single_bt_exact": Trained({"head": draw(size=8).astype(np.float32)})}, scaler)
    run: Any = SimpleNamespace(scorer=scorer)
    persona = choose_persona(run, "single_bt_exact", ExportConfig())
    response, prompt = draw(size=(2, 5, 8)).astype(np.float32)
    found = response @ (persona.weights_K @ raw_heads(scorer, "single_bt_exact"))
    expected = scorer.score("single_bt_exact", response, prompt).reward_N
    assert np.abs(found - expected).max() < TOLERANCE
    with pytest.raises(ExportError, match="expected a method with linear heads"):
        raw_heads(scorer, "dpl")


def test_head_names_are_distinct() -> None:
    def names(*attributes: str) -> list[str]:
        report = {"heads": {"micro": {"names": list(attributes)}}}
        return head_names(report, "micro", len(attributes))

    assert names("brief", "long", "long") == ["brief", "long_1", "long_2"]
    assert names("unspecific", "long") == ["unspecific_0", "long"]
    assert names("long_1", "long", "long") == ["head_0", "head_1", "head_2"]
    assert head_names({}, "micro", 2) == ["head_0", "head_1"]
    assert head_names({}, "single_bt", 1) == ["reward"]
