"""Dynamic batching: one thread, a bounded queue, batches that grow with the load."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from micro_rm.serve.batching import Batcher, BatchLimits, Busy, Closed

WAIT = 20


class Slow:
    """Computes squares, blocks until ``go`` is set, and fails for 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.started.set()
        assert self.go.wait(WAIT)
        if 13 in numbers:
            raise ValueError("13")
        return [number**2 for number in numbers]


def make(texts: int = 100, characters: int = 1000, queue: int = 10) -> tuple[Slow, Batcher]:
    slow = Slow()
    return slow, Batcher(slow, BatchLimits(texts, characters, 0.0, queue))


def occupy(slow: Slow, batcher: Batcher) -> None:
    """Occupy the thread with request 0, so that later requests gather in the queue."""
    batcher.submit(0, texts=1, characters=1)
    assert slow.started.wait(WAIT)


def test_requests_that_arrive_during_a_batch_are_computed_together_in_order() -> None:
    slow, batcher = make()
    occupy(slow, batcher)
    futures = [batcher.submit(number, texts=1, characters=1) for number in (1, 2, 3)]
    slow.go.set()
    assert [future.result(WAIT) for future in futures] == [1, 4, 9]
    assert slow.batches == [[0], [1, 2, 3]]
    batcher.close()


def test_a_batch_waits_until_it_is_full_whoever_comes_in_between() -> None:
    slow = Slow()
    slow.go.set()
    batcher = Batcher(slow, BatchLimits(3, 1000, WAIT, 10))
    futures = []
    for number in (1, 2, 3):
        futures.append(batcher.submit(number, texts=1, characters=1))
        time.sleep(0.05)  # the thread sees one more request at a time
    assert [future.result(WAIT) for future in futures] == [1, 4, 9]
    assert slow.batches == [[1, 2, 3]]
    batcher.close()


@pytest.mark.parametrize(("texts", "characters"), [(5, 1000), (100, 50)])
def test_a_batch_stays_below_its_limits_and_a_larger_request_goes_alone(
    texts: int, characters: int
) -> None:
    slow, batcher = make(texts, characters)
    occupy(slow, batcher)
    for number, size in enumerate((2, 3, 1, 9, 1), start=1):
        batcher.submit(number, texts=size, characters=10 * size)
    slow.go.set()
    batcher.close()
    assert slow.batches == [[0], [1, 2], [3], [4], [5]]


def test_a_full_queue_refuses_until_a_request_is_cancelled() -> None:
    slow, batcher = make(queue=2)
    occupy(slow, batcher)
    first = batcher.submit(1, texts=1, characters=1)
    batcher.submit(2, texts=1, characters=1)
    with pytest.raises(Busy):
        batcher.submit(3, texts=1, characters=1)
    assert first.cancel()
    fourth = batcher.submit(4, texts=1, characters=1)
    slow.go.set()
    assert fourth.result(WAIT) == 16
    assert slow.batches == [[0], [2, 4]]
    batcher.close()


def test_an_error_reaches_only_the_request_that_causes_it() -> None:
    slow, batcher = make()
    occupy(slow, batcher)
    good, bad, other = (batcher.submit(n, texts=1, characters=1) for n in (1, 13, 2))
    slow.go.set()
    assert (good.result(WAIT), other.result(WAIT)) == (1, 4)
    with pytest.raises(ValueError, match="13"):
        bad.result(WAIT)
    assert batcher.alive
    batcher.close()


def test_closing_drains_the_queue_and_refuses_new_requests() -> None:
    slow, batcher = make()
    occupy(slow, batcher)
    waiting = batcher.submit(5, texts=1, characters=1)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while batcher.alive:
        pass
    with pytest.raises(Closed):
        batcher.submit(6, texts=1, characters=1)
    slow.go.set()
    closing.join(WAIT)
    assert waiting.result(0) == 25


def test_a_lone_request_may_wait_for_others() -> None:
    computed: list[list[int]] = []

    def compute(numbers: Sequence[int]) -> list[int]:
        computed.append(list(numbers))
        return list(numbers)

    batcher = Batcher(compute, BatchLimits(2, 100, WAIT, 10))
    first = batcher.submit(1, texts=1, characters=1)
    batcher.submit(2, texts=1, characters=1)
    assert first.result(WAIT) == 1 and computed == [[1, 2]]
    batcher.close()
