"""One thread owns the model; requests wait in a bounded queue and are computed together.

While a batch is computed the next one gathers, so that batches grow with the load and a lone
request never waits for company. An error that only some requests of a batch cause is found by
computing them one by one, and is theirs alone.
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
    """The queue is full; come back later."""


class Closed(Exception):
    """The service is stopping."""


@dataclass(frozen=True)
class Limits:
    """Of one batch (sequences, characters, seconds that the first request waits) and the queue."""

    texts: int
    characters: int
    wait_s: float
    queue: int


@dataclass
class _Waiting(Generic[Request, Answer]):
    request: Request
    texts: int
    characters: int
    future: Future[Answer] = field(default_factory=Future)


class Batcher(Generic[Request, Answer]):
    """Requests in, futures out. ``compute`` gets requests in order and returns as many answers.

    ``observe`` is told the number of requests and texts of every batch.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Request]], Sequence[Answer]],
        limits: Limits,
        observe: Callable[[int, int], None] = lambda _requests, _texts: None,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._observe = observe
        self._queue: deque[_Waiting[Request, Answer]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether anybody will compute what is submitted."""
        return self._thread.is_alive() and not self._closed

    def submit(self, request: Request, *, texts: int, characters: int) -> Future[Answer]:
        """Queue a request. Raises ``Busy`` or ``Closed``; cancelling the future takes it out."""
        waiting = _Waiting[Request, Answer](request, texts, characters)
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._queue) >= self._limits.queue:
                self._queue = deque(one for one in self._queue if not one.future.cancelled())
            if len(self._queue) >= self._limits.queue:
                raise Busy
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Take no more, finish what is queued, and wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch), sum(one.texts for one in batch))
            self._answer(batch)

    def _next_batch(self) -> list[_Waiting[Request, Answer]]:
        """Requests that nobody has given up; empty when everything is done and the queue closed."""
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return []
                self._wait_for_company()
                batch = self._take()
            # From here on a request can no longer be cancelled.
            batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if batch:
                return batch

    def _wait_for_company(self) -> None:
        until = time.monotonic() + self._limits.wait_s
        while not self._closed and sum(one.texts for one in self._queue) < self._limits.texts:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _take(self) -> list[_Waiting[Request, Answer]]:
        batch: list[_Waiting[Request, Answer]] = []
        texts = characters = 0
        while self._queue:
            texts += self._queue[0].texts
            characters += self._queue[0].characters
            full = texts > self._limits.texts or characters > self._limits.characters
            if batch and full:
                break
            batch.append(self._queue.popleft())
        return batch

    def _answer(self, batch: Sequence[_Waiting[Request, Answer]]) -> None:
        try:
            answers = self._compute([one.request for one in batch])
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0].future, error=error)
                return
            for one in batch:
                self._answer([one])
            return
        for one, answer in zip(batch, answers, strict=True):
            _settle(one.future, answer=answer)


def _settle(
    future: Future[Answer], *, answer: Answer | None = None, error: Exception | None = None
) -> None:
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type]
    except InvalidStateError:
        pass  # given up while it was computed
