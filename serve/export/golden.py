"""Golden scores: a run's scores of fixed texts, which its export must reproduce."""

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
from .fixed_texts import CONTEXT, PROMPTS, RESPONSES
from .persona import ExportError

# Largest allowed difference, relative to the largest golden score, or absolute if that is below 1.
# The order of summation depends on the batch and the kernels, so results round differently.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


def golden_texts(
    model: Model, method: str, context: str | None, group: str | None, *, vary_context: bool
) -> list[dict[str, Any]]:
    """Score the fixed texts with a method of the run.

    Args:
        model: The trained run.
        method: Name of the method.
        context: Context of all texts, or None.
        group: Attribute or user, for methods that were adapted to groups.
        vary_context: Score every second text under ``fixed_texts.CONTEXT`` instead of ``context``.

    Returns:
        One dictionary per text: prompt, response, context, messages, token ids, reward, head
        weights and head rewards.
    """
    contexts = [CONTEXT if vary_context and index % 2 else context for index in range(len(PROMPTS))]
    groups = None if group is None else [group] * len(PROMPTS)
    scores = model.score(PROMPTS, RESPONSES, contexts, method=method, groups=groups)
    golden = []
    for prompt, response, given, score in zip(PROMPTS, RESPONSES, contexts, scores, strict=True):
        ids, turns = _head_sequence(model, prompt, response, given)
        golden.append(
            {
                "prompt": prompt,
                "response": response,
                "context": given,
                "messages": [turn._asdict() for turn in turns],
                "token_ids": ids,
                "reward": score.reward,
                "weights": score.weights,
                "head_rewards": score.head_rewards,
            }
        )
    return golden


def _head_sequence(
    model: Model, prompt: str, response: str, context: str | None
) -> tuple[list[int], tuple[Message, ...]]:
    """Token ids that the heads read for a response, and the messages that these encode."""
    pair = PreferencePair(
        messages(prompt), response, "", split="test", source="export", context=context
    )
    form, view = model.views.form, model.views.adapt_head
    conversation = conversation_of(pair, view, "chosen", form, equal_prompts=False)
    turns = (*with_context(pair.prompt, conversation.context, form), Message("assistant", response))
    return model.texts.encoder.renderer.token_ids([conversation])[0].tolist(), turns


def verify_classifier(
    directory: Path, golden: Sequence[dict[str, Any]], dtype: str
) -> dict[str, Any]:
    """Load a classifier with transformers and compare its scores with the golden ones.

    Every text is scored alone and in one padded batch with all others.

    Args:
        directory: The exported classifier.
        golden: Result of ``golden_texts``, each with its expected outputs (L,) as ``scores``.
        dtype: Name of the dtype that the run computed in.

    Returns:
        The largest difference, whether the chat template reproduces the run's token ids, and the
        versions of the libraries.

    Raises:
        ExportError: A score differs by more than the tolerance of the dtype, or is NaN.
    """
    import transformers
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=DTYPES[dtype], local_files_only=True
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    rows = [item["token_ids"] for item in golden]
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    with torch.inference_mode():
        alone = torch.cat([model(torch.tensor([row])).logits for row in rows])
        batched = model(**padded).logits
    expected = np.array([item["scores"] for item in golden])
    error = max(
        _largest_difference(logits.float().numpy(), expected, dtype) for logits in (alone, batched)
    )
    templated = [
        tokenizer.apply_chat_template(item["messages"], tokenize=True, return_dict=True)
        for item in golden
    ]
    exact = all(list(item["input_ids"]) == row for item, row in zip(templated, rows, strict=True))
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    return {"largest_difference": error, "chat_template_exact": exact, "versions": versions}


def verify_routed(directory: Path, golden: Sequence[dict[str, Any]], dtype: str) -> dict[str, Any]:
    """Run the Python code of a routed export and compare its scores with the golden ones.

    Args:
        directory: The routed export.
        golden: Result of ``golden_texts``.
        dtype: Name of the dtype that the run computed in.

    Returns:
        The largest difference over rewards, weights and head rewards.

    Raises:
        ExportError: The difference exceeds the tolerance of the dtype, or is NaN.
    """
    module = _load_reward_funcs(directory)
    scorer = module.RoutedReward(directory, device="cpu")
    out = scorer(*([item[key] for item in golden] for key in ("prompt", "response", "context")))
    error = 0.0
    for key, values in zip(("reward", "weights", "head_rewards"), out, strict=True):
        expected = np.array([item[key] for item in golden])
        error = max(error, _largest_difference(values.numpy(), expected, dtype))
    return {"largest_difference": error}


def _load_reward_funcs(directory: Path) -> Any:
    """Import ``reward_funcs`` from an export, then restore ``sys.path`` and ``sys.modules``."""
    # Another export may have been imported under the same name.
    previous = sys.modules.pop("modeling_routed", None)
    sys.path.insert(0, str(directory))
    try:
        spec = util.spec_from_file_location(
            "micro_rm_exported_rewards", directory / "reward_funcs.py"
        )
        assert spec is not None and spec.loader is not None
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(directory))
        sys.modules.pop("modeling_routed", None)
        if previous is not None:
            sys.modules["modeling_routed"] = previous
    return module


def _largest_difference(actual: np.ndarray, expected: np.ndarray, dtype: str) -> float:
    """Largest absolute difference; raises ``ExportError`` if it exceeds the tolerance or is NaN."""
    error = float(np.abs(actual - expected).max())
    allowed = TOLERANCE[dtype] * max(1.0, float(np.abs(expected).max()))
    if not error <= allowed:  # also true for NaN
        raise ExportError(
            f"export.tier: expected scores within {allowed:.2g} of the run's, but those of the "
            f"exported model differ by {error:.2g}, so nothing was written; the backbone cannot be "
            "exported in this tier, use another tier or micro-rm serve"
        )
    return error
