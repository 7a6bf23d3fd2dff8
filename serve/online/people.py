"""What people taught the service: one thread writes it down, everybody may read.

State is a function of the journal: per person the sums of ``weights.Person``; a start reads
all of it. Feedback is acknowledged when its line is synced; comparisons that arrive together share
one sync.
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
from .weights import Person, Rule

AT_ONCE = 256  # comparisons under one sync


class FullError(UserError):
    """More people than the service may keep."""


class Feedback(NamedTuple):
    """A comparison: whose, by which method's router and heads: margins (K,) and log weights (K,).

    ``vector_D`` is what the router read, kept only where the router learns. The same ``id`` of the
    same person counts once.
    """

    user: str
    method: str
    margin_K: np.ndarray
    log_router_K: np.ndarray
    id: str | None = None
    vector_D: np.ndarray | None = None


class Receipt(NamedTuple):
    """``id`` of a comparison that will survive, and the person's state after it."""

    id: str
    repeated: bool
    person: Person


@dataclass(frozen=True)
class Known:
    """A person with the ids of their comparisons in order."""

    person: Person
    ids: dict[str, None] = field(default_factory=dict)


class Online:
    """Feedback in, weights out. ``changed`` is told when the journal grew or was rewritten."""

    def __init__(
        self,
        directory: Path,
        heads: int,
        header: Record,
        rule: Rule,
        *,
        most_people: int = 100_000,
    ) -> None:
        self.heads, self.rule = heads, rule
        self.changed: Callable[[bool], None] = lambda _rewritten: None
        self._most_people = most_people
        self.journal = Journal(directory, {"heads": heads} | header)
        self._people: dict[str, Known] = {}
        self._number = 0
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
        """Comparisons of everybody."""
        return sum(known.person.count for known in list(self._people.values()))

    def person(self, user: str) -> Person:
        """What is known of a person, nothing for a stranger."""
        known = self._people.get(user)
        return Person.new(self.heads) if known is None else known.person

    def records(self, user: str) -> list[Record]:
        """Everything that is kept of a person, in order."""
        return [record for record in self.journal.records() if record["user"] == user]

    def give(self, feedback: Feedback) -> Future[Receipt]:
        """Write a comparison down; the future is done when it will survive."""
        future: Future[Receipt] = Future()
        self._work.put((feedback, future))
        return future

    def delete(self, user: str) -> Future[int]:
        """Forget a person; the number of comparisons that were dropped."""
        return self._change(lambda: self._rewrite(user, 0))

    def rollback(self, user: str, keep: int) -> Future[int]:
        """Forget all but the first ``keep`` comparisons of a person; how many were dropped."""
        return self._change(lambda: self._rewrite(user, keep))

    def close(self) -> None:
        """Write down what was given, then let others write."""
        self._work.put((None, None))
        self._thread.join()
        self.journal.close()

    def _change(self, work: Callable[[], int]) -> Future[int]:
        future: Future[int] = Future()
        self._work.put((work, future))
        return future

    def _run(self) -> None:
        held: tuple[Any, Any] | None = None
        while True:
            work, future = held or self._work.get()
            held = None
            if work is None:
                return
            if not isinstance(work, Feedback):
                _settle(future, work)
                continue
            given = [(work, future)]
            while len(given) < AT_ONCE and not self._work.empty():
                work, future = self._work.get()
                if not isinstance(work, Feedback):
                    held = work, future
                    break
                given.append((work, future))
            self._commit(given)

    def _commit(self, given: Sequence[tuple[Feedback, Future[Receipt]]]) -> None:
        """Write comparisons, make them known, acknowledge them, in this order."""
        if self.journal.broken:  # ids of comparisons that were not written are known by now
            for _, future in given:
                future.set_exception(JournalError(self.journal.broken))
            return
        fresh: dict[str, Known] = {}
        records: list[Record] = []
        answers: list[tuple[Future[Receipt], Receipt | Exception]] = []
        for feedback, future in given:
            try:
                answers.append((future, self._enter(feedback, fresh, records)))
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
        self._number += len(records)
        if records:
            self.changed(False)

    def _enter(self, feedback: Feedback, fresh: dict[str, Known], records: list[Record]) -> Receipt:
        user = feedback.user
        known = fresh.get(user) or self._people.get(user) or Known(Person.new(self.heads))
        if feedback.id is not None and feedback.id in known.ids:
            return Receipt(feedback.id, True, known.person)
        if not known.person.count and len(self._people | fresh) >= self._most_people:
            raise FullError(
                f"user: {self._most_people:,} people are known and no more may be; delete some, or "
                "raise serve.online.users"
            )
        margin_K = np.asarray(feedback.margin_K, np.float64)
        served = self.rule.served_loss(known.person, margin_K, feedback.log_router_K)
        record: Record = {
            "number": self._number + len(records) + 1,
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
        fresh[user] = _learn(known, record)
        return Receipt(record["id"], False, fresh[user].person)

    def _rewrite(self, user: str, keep: int) -> int:
        seen = 0

        def wanted(record: Record) -> bool:
            nonlocal seen
            seen += record["user"] == user
            return record["user"] != user or seen <= keep

        dropped = self.journal.rewrite(wanted)
        if dropped:
            known = Known(Person.new(self.heads))
            for record in self.records(user):
                known = _learn(known, record)
            if known.person.count:
                self._people[user] = known
            else:
                del self._people[user]
            self.changed(True)
        return dropped

    def _restore(self) -> None:
        heads = self.heads
        for line in self.journal.replay():
            record = line.record
            known = self._people.get(record["user"]) or Known(Person.new(heads))
            self._people[record["user"]] = _learn(known, record)
            self._number = record["number"]


class Regret(NamedTuple):
    """Nats behind the best head, and behind the best taste of all, after every comparison."""

    head: list[float]
    mixture: list[float]


def regret_curves(records: Sequence[Record], heads: int) -> Regret:
    """Of a person's comparisons in order, each against the best of that moment's hindsight."""
    person, curves = Person.new(heads), Regret([], [])
    for record in records:
        person = person.after(np.array(record["margins"]), record["served"])
        curves.head.append(person.regret)
        curves.mixture.append(person.regret_mixture)
    return curves


def _learn(known: Known, record: Record) -> Known:
    person = known.person.after(np.array(record["margins"]), record["served"])
    # The dictionary grows in place: copying it would make a person's n-th comparison cost n.
    ids = known.ids
    ids[record["id"]] = None
    return replace(known, person=person, ids=ids)


def _settle(future: Future[int], work: Callable[[], int]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
