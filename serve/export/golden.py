"""Golden scores: what an export must give for fixed texts, and the trial that it does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...embed.backbone import DTYPES
from ...embed.chat import with_context
from ...embed.sequences import conversation_of
from ...embed.sources.pair import Message, PreferencePair
from ..model import Model, messages
from .persona import ExportError
from .probes import PROMPTS, RESPONSES, WISH

# How far an export may be from the run, per unit of the largest golden score (1 at least): in
# float32 rounding, in bfloat16 what another order of the same sums gives.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


def golden_texts(
    model: Model, method: str, context: str | None, group: str | None, *, wishes: bool
) -> list[dict[str, Any]]:
    """The fixed texts with the scores of a method: reward, weights, head rewards and token ids.

    All are under ``context`` if there is one; with ``wishes`` every other one is under ``WISH``.
    """
    contexts = [WISH if wishes and place % 2 else context for place in range(len(PROMPTS))]
    groups = None if group is None else [group] * len(PROMPTS)
    scores = model.score(PROMPTS, RESPONSES, contexts, method=method, groups=groups)
    found = []
    for prompt, response, wish, score in zip(PROMPTS, RESPONSES, contexts, scores, strict=True):
        ids, turns = _sequence(model, prompt, response, wish)
        found.append(
            {
                "prompt": prompt,
                "response": response,
                "context": wish,
                "messages": [turn._asdict() for turn in turns],
                "token_ids": ids,
                "reward": score.reward,
                "weights": score.weights,
                "head_rewards": score.head_rewards,
            }
        )
    return found


def _sequence(
    model: Model, prompt: str, response: str, wish: str | None
) -> tuple[list[int], tuple[Message, ...]]:
    pair = PreferencePair(
        messages(prompt), response, "", split="test", source="export", context=wish
    )
    form, view = model.views.form, model.views.adapt_head
    conversation = conversation_of(pair, view, "chosen", form, equal_prompts=False)
    turns = (*with_context(pair.prompt, conversation.wish, form), Message("assistant", response))
    return model.texts.encoder.renderer.token_ids([conversation])[0].tolist(), turns


def try_classifier(place: Path, golden: Sequence[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Load a classifier as its users will, and compare it with the golden scores.

    Every text alone, and all in one batch. Returns the largest difference and whether the chat
    template gives the run's tokens. Raises ``ExportError`` if the scores are others.
    """
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        place, dtype=DTYPES[dtype], local_files_only=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    rows = [item["token_ids"] for item in golden]
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.inference_mode():
        alone = torch.cat([model(torch.tensor([row])).logits for row in rows])
        together = model(**padded).logits
    expected = np.array([item["scores"] for item in golden])
    error = max(
        _compare(found.float().numpy(), expected, dtype, place) for found in (alone, together)
    )
    templated = [
        tokenizer.apply_chat_template(item["messages"], tokenize=True, return_dict=True)
        for item in golden
    ]
    exact = all(list(a["input_ids"]) == row for a, row in zip(templated, rows, strict=True))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"largest_difference": error, "chat_template_exact": exact, "versions": versions}


def try_routed(place: Path, golden: Sequence[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Run the code of a routed export, and compare it with the golden scores."""
    code = _load_code(place)
    scorer = code.RoutedReward(place, device="cpu")
    out = scorer(*([item[key] for item in golden] for key in ("prompt", "response", "context")))
    error = 0.0
    for key, found in zip(("reward", "weights", "head_rewards"), out, strict=True):
        expected = np.array([item[key] for item in golden])
        error = max(error, _compare(found.numpy(), expected, dtype, place))
    return {"largest_difference": error}


def _load_code(place: Path) -> Any:
    """``reward_funcs`` of a directory; it finds ``modeling_routed`` beside itself."""
    before = sys.modules.pop("modeling_routed", None)
    sys.path.insert(0, str(place))
    try:
        spec = util.spec_from_file_location("micro_rm_exported_rewards", place / "reward_funcs.py")
        assert spec is not None and spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(place))
        sys.modules.pop("modeling_routed", None)
        if before is not None:
            sys.modules["modeling_routed"] = before
    return module


def _compare(found: np.ndarray, expected: np.ndarray, dtype: str, place: Path) -> float:
    error = float(np.abs(found - expected).max())
    allowed = TOLERANCE[dtype] * max(1.0, float(np.abs(expected).max()))
    if not error <= allowed:
        raise ExportError(
            f"{place.name}: the export gives other scores than the run (difference {error:.2g}, "
            f"allowed {allowed:.2g}); this kind of backbone cannot be exported in this tier, use "
            "another tier or micro-rm serve"
        )
    return error
