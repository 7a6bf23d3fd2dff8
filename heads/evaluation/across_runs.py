"""Methods of several runs compared on the test rows that the runs share (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...common.errors import UserError
from ...configs.schema import EvaluateConfig
from .comparisons import family
from .report import accuracies
from .rows import ORACLE, VALIDATED
from .saved import SavedScores, shared_rows


class MethodsError(UserError):
    """The runs have no methods to compare; the message says which they have."""


@dataclass(frozen=True)
class ScoredRun:
    """A run by the name that tables show, its scores, and what each method is given."""

    name: str
    scores: SavedScores
    given: Mapping[str, str]


def compare_runs(
    runs: Sequence[ScoredRun],
    methods: Sequence[str],
    against: str | None,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """Compare every method of the later runs with the same method of the first run.

    Args:
        runs: The runs; the first is what the others are compared with.
        methods: Methods to compare, all if empty.
        against: Method of the first run that takes the place of one that it lacks.
        config: Confidence level.

    Returns:
        ``rows`` and ``prompts`` in common, ``left_out`` rows per run, ``methods`` with accuracies
        by ``run: method``, and ``comparisons``, one family.

    Raises:
        RowsError: The runs share no test rows.
        MethodsError: There is nothing to compare.
    """
    aligned = shared_rows([run.scores for run in runs])
    test = aligned[0].test
    correct, given, pairs = {}, {}, []
    for run, scores in zip(runs, aligned, strict=True):
        for method in _chosen(run, methods):
            name = f"{run.name}: {method}"
            correct[name], given[name] = scores.correct[method], run.given[method]
            if run is not runs[0]:
                base = _base(runs[0], method, against or config.against)
                pairs.append((name, f"{runs[0].name}: {base}"))
                correct[pairs[-1][1]] = aligned[0].correct[base]
                given[pairs[-1][1]] = runs[0].given[base]
    if not pairs:
        known = "; ".join(f"{run.name} has {', '.join(run.scores.correct)}" for run in runs)
        raise MethodsError(f"compare.methods: nothing to compare; {known}")
    return {
        "rows": len(aligned[0].labels["pair_id"]),
        "prompts": test.prompts,
        "left_out": {
            run.name: len(run.scores.labels["pair_id"]) - len(scores.labels["pair_id"])
            for run, scores in zip(runs, aligned, strict=True)
        },
        "confidence": config.confidence,
        "methods": {
            name: accuracies(
                correct_TxSxN, test, config.confidence, reads_context=given[name] == "context"
            )
            | {"seeds": correct_TxSxN.shape[0], "draws": correct_TxSxN.shape[1]}
            for name, correct_TxSxN in correct.items()
        },
        "comparisons": family(pairs, correct, test, given, config.confidence),
    }


def _chosen(run: ScoredRun, methods: Sequence[str]) -> list[str]:
    """The methods of a run that take part: those asked for, without best single heads."""
    real = [name for name in run.scores.correct if not name.endswith((ORACLE, VALIDATED))]
    return [name for name in real if not methods or name in methods]


def _base(first: ScoredRun, method: str, against: str) -> str:
    """What a method is compared with: itself in the first run, else the comparator."""
    known = first.scores.correct
    if method in known:
        return method
    return against if against in known else next(iter(known))
