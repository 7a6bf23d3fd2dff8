"""Studies of the heads: which can be merged, and which recur under other seeds.

Both compare margins on validation rows, which are used neither for adaptation nor for the test.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..evaluation.metrics import attribute_sums
from ..evaluation.protocol import ScoredMethod, TestSet, score
from ..matching import agreement as match_seeds
from ..methods import load_method
from ..methods.interface import HeadOutputs, Trained, predict_heads
from ..pruning import Merging, merge_heads, plan_merging
from ..run_data import RunData
from .measure import STAGE1, SeedRuns, StudyError
from .points import curves


def pruning(data: RunData, test: TestSet, seed_runs: SeedRuns) -> dict[str, Any]:
    """Merge heads by the correlation of their margins, with and without adapting them again."""
    study = data.config.study
    values: dict[str, Any] = {
        metric: defaultdict(lambda: defaultdict(list)) for metric in ("macro accuracy", "heads")
    }
    for seeded, trained in seed_runs():
        adapted = load_method("micro").fit(seeded.problem(adapt=True), trained)
        on_validation = _validation_heads(seeded, trained[STAGE1])
        weight_K = np.exp(on_validation.log_weights_SxNxK).mean(axis=(0, 1))
        all_heads = load_method("micro").predict(adapted, seeded.stage2(test.table_rows)).heads
        assert all_heads is not None
        for threshold in study.correlations:
            merging = plan_merging(on_validation.delta_NxK, weight_K, threshold)
            merged = merge_heads(all_heads, merging)
            # Stage 2 is run again from the stage-1 model that has only the kept heads.
            pruned = {STAGE1: _merge_model(trained[STAGE1], merging, weight_K)}
            readapted = load_method("micro").fit(seeded.problem(adapt=True), pruned)
            fewer_heads = (
                load_method("micro").predict(readapted, seeded.stage2(test.table_rows)).heads
            )
            assert fewer_heads is not None
            accuracy = values["macro accuracy"][threshold]
            accuracy["micro, heads merged"].append(_macro(merged, test))
            accuracy["micro, merged and adapted again"].append(_macro(fewer_heads, test))
            values["heads"][threshold]["heads left"].append(len(merging.kept))
    metrics = {
        metric: curves(rows, data.config.evaluate.confidence) for metric, rows in values.items()
    }
    left = metrics["heads"]["heads left"][0]
    before = metrics["macro accuracy"]["micro, heads merged"]
    return {
        "x": {"label": "correlation from which heads are merged", "log": False},
        "seeds": study.seeds,
        "metrics": metrics,
        "reading": (
            f"Merging from a correlation of {left['x']:g} leaves {left['mean']:.1f} of "
            f"{data.config.train.num_heads} heads and changes the accuracy from "
            f"{before[-1]['mean']:.3f} to {before[0]['mean']:.3f}."
        ),
    }


def agreement(data: RunData, _test: TestSet, seed_runs: SeedRuns) -> dict[str, Any]:
    """Match the heads of every pair of seeds and measure how well their margins correlate."""
    study = data.config.study
    if study.seeds < 2:
        raise StudyError(
            f"study.seeds: agreement compares seeds, expected 2 or more, found {study.seeds}"
        )
    margins = [
        _validation_heads(seeded, trained[STAGE1]).delta_NxK for seeded, trained in seed_runs()
    ]
    # M pairs of seeds; the correlations of their matched heads in descending order.
    matched_MxK = -np.sort(-match_seeds(margins).value_MxK, axis=1)
    rows = {
        float(rank + 1): {"matched heads": matched_MxK[:, rank].tolist()}
        for rank in range(matched_MxK.shape[1])
    }
    stable = (matched_MxK >= 0.9).sum(axis=1).mean()
    return {
        "x": {"label": "heads of two seeds, the most alike first", "log": False},
        "seeds": study.seeds,
        "metrics": {"correlation of margins": curves(rows, data.config.evaluate.confidence)},
        "reading": (
            f"Between two seeds {stable:.1f} of {matched_MxK.shape[1]} heads come back with a "
            f"correlation of 0.9 or more; the mean over matched heads is {matched_MxK.mean():.2f}. "
            "The intervals take the pairs of seeds as independent, which they are not quite."
        ),
    }


def _validation_heads(data: RunData, trained: Trained) -> HeadOutputs:
    """Margins and router weights of stage 1 on the validation rows."""
    rows_N = data.parts.validation
    if not rows_N.size:
        raise StudyError(
            "train.validation_fraction: studies of heads need validation rows, found none; raise it"
        )
    heads = load_method(STAGE1).predict(trained, data.stage1(rows_N)).heads
    assert heads is not None
    return heads


def _merge_model(trained: Trained, merging: Merging, weight_K: np.ndarray) -> Trained:
    """A stage-1 model of the kept heads, each with the mean weight of the heads merged into it.

    A router that sums the weights of merged heads on every row is not of the parametric form of
    the original one. The kept heads therefore get a larger bias, by the log ratio of the mean
    weights; this is only where stage 2 starts.
    """
    kept = list(merging.kept)
    group_weight = np.bincount(merging.owner_K, weight_K, len(kept))
    shift = np.log(group_weight / weight_K[kept]).astype(np.float32)
    output = {
        name: np.asarray(leaf)[..., kept]
        for name, leaf in trained.params["router"]["output"].items()
    }
    output["bias"] = output["bias"] + shift
    router = {**trained.params["router"], "output": output}
    spec = {**trained.settings["spec"], "num_heads": len(kept)}
    kernel_DxK = trained.params["heads"]["kernel"][:, kept]
    return Trained({"heads": {"kernel": kernel_DxK}, "router": router}, {"spec": spec})


def _macro(heads: HeadOutputs, test: TestSet) -> float:
    """Macro accuracy under rule R1."""
    scored: ScoredMethod = score(predict_heads("R1", *heads), "R1")
    shape = (test.prompts, len(test.attributes))
    sums, rows = attribute_sums(scored.mean_correct_N, test.prompt_N, test.attribute_N, shape)
    return float(np.mean(sums.sum(axis=0) / rows.sum(axis=0)))
