"""The studies by name: the question that each one answers, and where it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..evaluation.protocol import TestSet
from ..run_data import RunData
from . import heads, sweeps
from .measure import Members


class Study(NamedTuple):
    """A study: its title, its question, and the function that measures it."""

    title: str
    question: str
    run: Callable[[RunData, TestSet, Members], dict[str, Any]]


REGISTRY = {
    "num_heads": Study("Number of heads", "How many heads does it take?", sweeps.num_heads),
    "budget": Study("Labelled rows", "How many labelled rows does it take?", sweeps.budget),
    "tau": Study("Temperature", "How sharp should the Hedge targets be?", sweeps.tau),
    "pruning": Study("Pruning", "Which heads can be merged without loss?", heads.pruning),
    "agreement": Study("Agreement", "Do other seeds find the same heads?", heads.agreement),
}
