"""Measure how long a call takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

ROUNDS = 5
BUDGET_SECONDS = 0.15


def best_seconds(call: Callable[[], object]) -> float:
    """Seconds of the fastest of up to ``ROUNDS + 1`` calls, the first of which warms up.

    Stops once ``BUDGET_SECONDS`` have passed, because an emulated operation may be a hundred times
    slower than a native one. The call must have finished its work when it returns.
    """
    best, start = float("inf"), time.perf_counter()
    for _ in range(ROUNDS + 1):
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        best = min(best, after - before)
        if after - start > BUDGET_SECONDS:
            break
    return best
