"""The seconds of a call, measured on whatever machine this is."""

from __future__ import annotations

import time
from collections.abc import Callable

ROUNDS = 5
ENOUGH_SECONDS = 0.15


def fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls, the first of which warms up.

    There are no more of them once they have taken long enough: what a machine emulates may be a
    hundred times slower than elsewhere. The call must have finished its work when it returns.
    """
    best, start = float("inf"), time.perf_counter()
    for _ in range(ROUNDS + 1):
        before = time.perf_counter()
        call()
        after = time.perf_counter()
        best = min(best, after - before)
        if after - start > ENOUGH_SECONDS:
            break
    return best
