"""Store of people's feedback: written by one thread, readable from any.

The in-memory state (one ``weights.Person`` per person) is a function of the journal and is rebuilt
from it on start. Feedback is acknowledged once its line is synced; comparisons that arrive together
share one sync (group commit).
"""

from __future__ import annotations

import base64
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...common.errors import UserError
from .journal import Journal, JournalError, Record
from .weights import HedgeRule, Person

MAX_COMMIT = 256  # comparisons per sync


class FullError(UserError):
    """The store already holds as many people as it may."""


class Feedback(NamedTuple):
    """One comparison of a person, as the heads and the router of ``method`` saw it.

    Attributes:
        user: Name of the person.
        method: Method whose heads and router scored the pair.
        margin_K: Reward of the chosen minus that of the rejected response, per head.
        log_router_K: Log weights of the router for the prompt and context.
        id: Idempotency key: the same id of the same person counts once.
        vector_D: Input of the router, stored only if the shared router learns.
    """

    user: str
    method: str
    margin_K: np.ndarray
    log_router_K: np.ndarray
    id: str | None = None
    vector_D: np.ndarray | None = None


class Receipt(NamedTuple):
    """Acknowledgement of a durable comparison, with the person's state after it.

    ``repeated``: the id was known already, and nothing was added.
    """

    id: str
    repeated: bool
    person: Person


@dataclass(frozen=True)
class PersonEntry:
    """A person's statistics with the ids of their comparisons, in order."""

    person: Person
    ids: dict[str, None] = field(default_factory=dict)


class FeedbackStore:
    """Durable feedback and the statistics learnt from it.

    ``on_change(rewritten)`` is called from the writer thread after the journal grew (False) or
    comparisons were removed (True).
    """

    def __init__(
        self,
        directory: Path,
        heads: int,
        header: Record,
        rule: HedgeRule,
        *,
        max_people: int = 100_000,
    ) -> None:
        """Open the journal in ``directory`` and replay it.

        ``header`` identifies the heads. Raises ``JournalError`` if the journal is damaged,
        locked or of other heads.
        """
        self.heads, self.rule = heads, rule
        self.on_change: Callable[[bool], None] = lambda _rewritten: None
        self._max_people = max_people
        self.journal = Journal(directory, {"heads": heads} | header)
        self._people: dict[str, PersonEntry] = {}
        self._last_number = 0
        try:
            self._restore()
        except BaseException:
            self.journal.close()
            raise
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="feedback", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._people)

    @property
    def comparisons(self) -> int:
        """Number of comparisons over all people."""
        return sum(entry.person.count for entry in list(self._people.values()))

    def person(self, user: str) -> Person:
        """Statistics of a person, empty if there was no feedback."""
        entry = self._people.get(user)
        return Person.new(self.heads) if entry is None else entry.person

    def records(self, user: str) -> list[Record]:
        """Every journal record of a person, in order."""
        return [record for record in self.journal.records() if record["user"] == user]

    def add(self, feedback: Feedback) -> Future[Receipt]:
        """Queue a comparison; the future resolves once it is durable.

        It fails with ``FullError`` for a new person beyond ``max_people`` and with
        ``JournalError`` if the journal cannot be written.
        """
        future: Future[Receipt] = Future()
        self._work.put((feedback, future))
        return future

    def delete(self, user: str) -> Future[int]:
        """Delete a person; resolves to the number of comparisons removed."""
        return self._enqueue(lambda: self._rewrite(user, 0))

    def rollback(self, user: str, keep: int) -> Future[int]:
        """Delete all but a person's first ``keep`` comparisons; resolves to the number removed."""
        return self._enqueue(lambda: self._rewrite(user, keep))

    def close(self) -> None:
        """Commit everything queued, stop the writer thread and release the journal."""
        self._work.put((None, None))
        self._thread.join()
        self.journal.close()

    def _enqueue(self, work: Callable[[], int]) -> Future[int]:
        future: Future[int] = Future()
        self._work.put((work, future))
        return future

    def _run(self) -> None:
        """Writer thread: group consecutive comparisons, run deletions alone, keep the order."""
        held: tuple[Any, Any] | None = None  # taken off the queue, but not part of the group
        while True:
            work, future = held or self._work.get()
            held = None
            if work is None:  # pushed by close
                return
            if not isinstance(work, Feedback):
                _resolve(future, work)
                continue
            group = [(work, future)]
            while len(group) < MAX_COMMIT and not self._work.empty():
                work, future = self._work.get()
                if not isinstance(work, Feedback):
                    held = work, future
                    break
                group.append((work, future))
            self._commit(group)

    def _commit(self, group: Sequence[tuple[Feedback, Future[Receipt]]]) -> None:
        """Write comparisons, publish the new state, then acknowledge them, in this order."""
        # A failed append left its ids in the (shared) id sets: without this check a retry would be
        # acknowledged as repeated although nothing is on disk.
        if self.journal.broken:
            for _, future in group:
                future.set_exception(JournalError(self.journal.broken))
            return
        fresh: dict[str, PersonEntry] = {}
        records: list[Record] = []
        answers: list[tuple[Future[Receipt], Receipt | Exception]] = []
        for feedback, future in group:
            try:
                answers.append((future, self._stage(feedback, fresh, records)))
            except Exception as error:
                answers.append((future, error))
        try:
            if records:
                self.journal.append(records)
        except Exception as error:
            for future, _ in answers:
                future.set_exception(error)
            return
        self._people |= fresh
        for future, answer in answers:
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._last_number += len(records)
        if records:
            self.on_change(False)

    def _stage(
        self, feedback: Feedback, fresh: dict[str, PersonEntry], records: list[Record]
    ) -> Receipt:
        """Apply a comparison to ``fresh`` and add its record to ``records``; nothing is written."""
        user = feedback.user
        entry = fresh.get(user) or self._people.get(user) or PersonEntry(Person.new(self.heads))
        if feedback.id is not None and feedback.id in entry.ids:
            return Receipt(feedback.id, True, entry.person)
        if not entry.person.count and len(self._people | fresh) >= self._max_people:
            raise FullError(
                f"user: {self._max_people:,} people are known and no more may be; delete some, or "
                "raise serve.online.users"
            )
        margin_K = np.asarray(feedback.margin_K, np.float64)
        served = self.rule.served_loss(entry.person, margin_K, feedback.log_router_K)
        record: Record = {
            "number": self._last_number + len(records) + 1,
            "time": round(time.time(), 3),
            "user": user,
            "id": feedback.id or uuid.uuid4().hex,
            "method": feedback.method,
            "margins": margin_K.tolist(),
            "served": served,
        }
        if feedback.vector_D is not None:
            raw = np.asarray(feedback.vector_D, "<f4").tobytes()
            record["vector"] = base64.b64encode(raw).decode()
        records.append(record)
        fresh[user] = _learn(entry, record)
        return Receipt(record["id"], False, fresh[user].person)

    def _rewrite(self, user: str, keep: int) -> int:
        """Remove all but the first ``keep`` comparisons from the journal, then from the state."""
        seen = 0

        def wanted(record: Record) -> bool:
            nonlocal seen
            seen += record["user"] == user
            return record["user"] != user or seen <= keep

        dropped = self.journal.rewrite(wanted)
        if dropped:
            # Losses are sums over comparisons: relearn the person from what is left.
            entry = PersonEntry(Person.new(self.heads))
            for record in self.records(user):
                entry = _learn(entry, record)
            if entry.person.count:
                self._people[user] = entry
            else:
                del self._people[user]
            self.on_change(True)
        return dropped

    def _restore(self) -> None:
        heads = self.heads
        for line in self.journal.replay():
            record = line.record
            entry = self._people.get(record["user"]) or PersonEntry(Person.new(heads))
            self._people[record["user"]] = _learn(entry, record)
            self._last_number = record["number"]


class RegretCurves(NamedTuple):
    """Regret after every comparison, in nats, against the best head and the best candidate."""

    head: list[float]
    mixture: list[float]


def regret_curves(records: Sequence[Record], heads: int) -> RegretCurves:
    """Regret curves of a person, from their records in order.

    Each point compares with the best in hindsight at that time, so curves need not be monotone.
    """
    person, curves = Person.new(heads), RegretCurves([], [])
    for record in records:
        person = person.after(np.array(record["margins"]), record["served"])
        curves.head.append(person.regret)
        curves.mixture.append(person.regret_mixture)
    return curves


def _learn(entry: PersonEntry, record: Record) -> PersonEntry:
    person = entry.person.after(np.array(record["margins"]), record["served"])
    # Ids are added in place: copying them would cost O(n) at a person's n-th comparison.
    ids = entry.ids
    ids[record["id"]] = None
    return replace(entry, person=person, ids=ids)


def _resolve(future: Future[int], work: Callable[[], int]) -> None:
    """Run ``work`` and hand its result or error to the future."""
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
