"""What is sampled in a test set: people, prompts and wordings, where there are several (pure)."""

from __future__ import annotations

import numpy as np

from .protocol import TestSet

# With fewer people, prompts or wordings a report says of a difference that they are too few.
FEW_UNITS = 6


def sampled_units(test: TestSet, *, reads_context: bool) -> dict[str, np.ndarray]:
    """The unit of every test row, (N,), by kind; at least one kind.

    - ``people`` where every row names one and every attribute has several of them;
    - ``prompts``, or ``pairs`` where every attribute has a single prompt;
    - ``wordings`` of the contexts, for methods that read them, where every attribute has several.

    Kinds may cross one another or be nested; ``variance.crossed_component`` deals with both.
    """
    units = {}
    if test.user_N is not None and _counts(test, test.user_N).min() > 1:
        units["people"] = test.user_N
    if _counts(test, test.prompt_N).max() > 1:
        units["prompts"] = test.prompt_N
    elif not units:
        units["pairs"] = np.arange(test.prompt_N.size)
    if reads_context and test.wording_N is not None and _counts(test, test.wording_N).min() > 1:
        units["wordings"] = test.wording_N
    return units


def too_few(units: dict[str, np.ndarray]) -> bool:
    """Whether some kind has fewer units than can show a difference."""
    return min(np.unique(unit_N).size for unit_N in units.values()) < FEW_UNITS


def _counts(test: TestSet, unit_N: np.ndarray) -> np.ndarray:
    """(A,) number of different units of every attribute."""
    pairs = np.unique(np.stack([test.attribute_N, unit_N]), axis=1)
    return np.bincount(pairs[0], minlength=len(test.attributes))
