"""Dynamic batching: one thread owns the model and computes queued requests together.

Requests gather in a bounded queue while a batch is computed, so that batch sizes grow with the load
and a lone request is not delayed. If a batch fails, its requests are retried one by one, and only
those that fail alone receive an error.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Busy(Exception):
    """The queue is full; the caller may retry later."""


class Closed(Exception):
    """The batcher is closed and accepts no more requests."""


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of a batch and of the queue.

    Attributes:
        texts: Sequences in a batch.
        characters: Characters in a batch; a single larger request forms a batch alone.
        wait_s: Seconds for which the first request of a batch waits for others.
        queue: Requests that may wait.
    """

    texts: int
    characters: int
    wait_s: float
    queue: int


@dataclass
class _QueuedRequest(Generic[Request, Answer]):
    request: Request
    texts: int
    characters: int
    future: Future[Answer] = field(default_factory=Future)


class Batcher(Generic[Request, Answer]):
    """Queues requests and hands out futures of their answers.

    Args:
        compute: Called on the batcher's own thread with a batch of requests; returns their answers
            in order.
        limits: Bounds of a batch and of the queue.
        observe: Called with the number of requests and of texts of every batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Request]], Sequence[Answer]],
        limits: BatchLimits,
        observe: Callable[[int, int], None] = lambda _requests, _texts: None,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._observe = observe
        self._queue: deque[_QueuedRequest[Request, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether submitted requests will be computed."""
        return self._thread.is_alive() and not self._closed

    def submit(self, request: Request, *, texts: int, characters: int) -> Future[Answer]:
        """Queue a request of ``texts`` sequences and ``characters`` characters.

        Cancelling the future withdraws a request that is still queued. Raises ``Busy`` if the queue
        is full and ``Closed`` after ``close``.
        """
        queued = _QueuedRequest[Request, Answer](request, texts, characters)
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._queue) >= self._limits.queue:  # make room by dropping cancelled requests
                self._queue = deque(item for item in self._queue if not item.future.cancelled())
            if len(self._queue) >= self._limits.queue:
                raise Busy
            self._queue.append(queued)
            self._changed.notify()
        return queued.future

    def close(self) -> None:
        """Reject new requests, compute those in the queue, and wait for the thread to end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch), sum(item.texts for item in batch))
            self._compute_batch(batch)

    def _next_batch(self) -> list[_QueuedRequest[Request, Answer]]:
        """Block for the next batch of uncancelled requests; empty once closed and drained."""
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return []
                self._wait_for_more()
                batch = self._take_batch()
            # From here on a request can no longer be cancelled.
            batch = [item for item in batch if item.future.set_running_or_notify_cancel()]
            if batch:
                return batch

    def _wait_for_more(self) -> None:
        """Wait until a batch is full or ``wait_s`` has passed; the lock is held."""
        deadline = time.monotonic() + self._limits.wait_s
        while not self._closed and sum(item.texts for item in self._queue) < self._limits.texts:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._changed.wait(remaining):
                return

    def _take_batch(self) -> list[_QueuedRequest[Request, Answer]]:
        batch: list[_QueuedRequest[Request, Answer]] = []
        texts = characters = 0
        while self._queue:
            texts += self._queue[0].texts
            characters += self._queue[0].characters
            full = texts > self._limits.texts or characters > self._limits.characters
            if batch and full:  # a first request is taken whatever its size
                break
            batch.append(self._queue.popleft())
        return batch

    def _compute_batch(self, batch: Sequence[_QueuedRequest[Request, Answer]]) -> None:
        try:
            answers = self._compute([item.request for item in batch])
        except Exception as error:
            if len(batch) == 1:
                _resolve(batch[0].future, error=error)
                return
            for item in batch:
                self._compute_batch([item])
            return
        for item, answer in zip(batch, answers, strict=True):
            _resolve(item.future, answer=answer)


def _resolve(
    future: Future[Answer], *, answer: Answer | None = None, error: Exception | None = None
) -> None:
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type]
    except InvalidStateError:
        pass  # abandoned while it was computed
