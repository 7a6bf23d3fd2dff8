"""The registry of studies: the question of each, and the function that answers it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..evaluation.protocol import TestSet
from ..run_data import RunData
from . import heads, sweeps
from .measure import SeedRuns


class Study(NamedTuple):
    """A study.

    ``run`` receives the data, the test set and the seeds' trainings, and returns the axis, the
    curves of each metric, and a sentence that reads them.
    """

    title: str
    question: str
    run: Callable[[RunData, TestSet, SeedRuns], dict[str, Any]]


REGISTRY = {
    "num_heads": Study("Number of heads", "How many heads does it take?", sweeps.num_heads),
    "budget": Study("Labelled rows", "How many labelled rows does it take?", sweeps.budget),
    "tau": Study("Temperature", "How sharp should the Hedge targets be?", sweeps.tau),
    "pruning": Study("Pruning", "Which heads can be merged without loss?", heads.pruning),
    "agreement": Study("Agreement", "Do other seeds find the same heads?", heads.agreement),
}
