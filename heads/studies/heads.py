"""The studies of the heads themselves: which can be merged, and which come back under other seeds.

Both look at margins on validation rows, which neither stage 2 nor the test has seen.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..evaluation.metrics import attribute_sums
from ..evaluation.protocol import ScoredMethod, TestSet, score
from ..matching import agreement as agree
from ..methods import load_method
from ..methods.interface import HeadOutputs, Trained, predict_heads
from ..pruning import Merging, merge_heads, plan_merging
from ..run_data import RunData
from .measure import STAGE1, Members, StudyError
from .points import curves


def pruning(bench: RunData, test: TestSet, members: Members) -> dict[str, Any]:
    """Heads merged by hold-out correlation, before and after stage 2 is run again with fewer."""
    study = bench.config.study
    found: dict[str, Any] = {
        metric: defaultdict(lambda: defaultdict(list)) for metric in ("macro accuracy", "heads")
    }
    for seeded, trained in members():
        adapted = load_method("micro").fit(seeded.problem(adapt=True), trained)
        held_out = _held_out(seeded, trained[STAGE1])
        weight_K = np.exp(held_out.log_weights_SxNxK).mean(axis=(0, 1))
        whole = load_method("micro").predict(adapted, seeded.stage2(test.table_rows)).heads
        assert whole is not None
        for threshold in study.correlations:
            merging = plan_merging(held_out.delta_NxK, weight_K, threshold)
            merged = merge_heads(whole, merging)
            fewer = {STAGE1: _merge_model(trained[STAGE1], merging, weight_K)}
            again = load_method("micro").fit(seeded.problem(adapt=True), fewer)
            anew = load_method("micro").predict(again, seeded.stage2(test.table_rows)).heads
            assert anew is not None
            accuracy = found["macro accuracy"][threshold]
            accuracy["micro, heads merged"].append(_macro(merged, test))
            accuracy["micro, merged and adapted again"].append(_macro(anew, test))
            found["heads"][threshold]["heads left"].append(len(merging.kept))
    metrics = {
        metric: curves(rows, bench.config.evaluate.confidence) for metric, rows in found.items()
    }
    left = metrics["heads"]["heads left"][0]
    before = metrics["macro accuracy"]["micro, heads merged"]
    return {
        "x": {"label": "correlation from which heads are merged", "log": False},
        "seeds": study.seeds,
        "metrics": metrics,
        "reading": (
            f"Merging from a correlation of {left['x']:g} leaves {left['mean']:.1f} of "
            f"{bench.config.train.num_heads} heads and changes the accuracy from "
            f"{before[-1]['mean']:.3f} to {before[0]['mean']:.3f}."
        ),
    }


def agreement(bench: RunData, _test: TestSet, members: Members) -> dict[str, Any]:
    """How alike the heads of two seeds are, each matched with its partner."""
    study = bench.config.study
    if study.seeds < 2:
        raise StudyError(
            f"study.seeds: agreement compares seeds, expected 2 or more, found {study.seeds}"
        )
    margins = [_held_out(seeded, trained[STAGE1]).delta_NxK for seeded, trained in members()]
    matched_MxK = -np.sort(-agree(margins).value_MxK, axis=1)
    rows = {
        float(rank + 1): {"matched heads": matched_MxK[:, rank].tolist()}
        for rank in range(matched_MxK.shape[1])
    }
    stable = (matched_MxK >= 0.9).sum(axis=1).mean()
    return {
        "x": {"label": "heads of two seeds, the most alike first", "log": False},
        "seeds": study.seeds,
        "metrics": {"correlation of margins": curves(rows, bench.config.evaluate.confidence)},
        "reading": (
            f"Between two seeds {stable:.1f} of {matched_MxK.shape[1]} heads come back with a "
            f"correlation of 0.9 or more; the mean over matched heads is {matched_MxK.mean():.2f}. "
            "The intervals take the pairs of seeds as independent, which they are not quite."
        ),
    }


def _held_out(bench: RunData, trained: Trained) -> HeadOutputs:
    rows_N = bench.parts.validation
    if not rows_N.size:
        raise StudyError(
            "train.validation_fraction: studies of heads need validation rows, found none; raise it"
        )
    heads = load_method(STAGE1).predict(trained, bench.stage1(rows_N)).heads
    assert heads is not None
    return heads


def _merge_model(trained: Trained, merging: Merging, weight_K: np.ndarray) -> Trained:
    """A stage-1 model with the kept heads, each with the weight of its group on average.

    The router that adds up weights row by row is no router of the same kind, so the bias moves by
    the mean: stage 2 starts from there.
    """
    places = list(merging.kept)
    group_weight = np.bincount(merging.owner_K, weight_K, len(places))
    shift = np.log(group_weight / weight_K[places]).astype(np.float32)
    output = {
        name: np.asarray(leaf)[..., places]
        for name, leaf in trained.params["router"]["output"].items()
    }
    output["bias"] = output["bias"] + shift
    router = {**trained.params["router"], "output": output}
    spec = {**trained.settings["spec"], "num_heads": len(places)}
    kernel_DxK = trained.params["heads"]["kernel"][:, places]
    return Trained({"heads": {"kernel": kernel_DxK}, "router": router}, {"spec": spec})


def _macro(heads: HeadOutputs, test: TestSet) -> float:
    scored: ScoredMethod = score(predict_heads("R1", *heads), "R1")
    shape = (test.prompts, len(test.attributes))
    sums, rows = attribute_sums(scored.mean_correct_N, test.prompt_N, test.attribute_N, shape)
    return float(np.mean(sums.sum(axis=0) / rows.sum(axis=0)))
