"""Comparisons that people give: kept apart, journalled, restored, rolled back and deleted."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.serve.online import people
from micro_rm.serve.online.journal import JOURNAL, JournalError
from micro_rm.serve.online.people import Feedback, FeedbackStore, FullError, regret_curves
from micro_rm.serve.online.tastes import tastes
from micro_rm.serve.online.weights import HedgeRule, bt_losses
from micro_rm.tests.serve.fake import HEADS, make_online

WAIT = 20
UNIFORM = np.full(HEADS, -np.log(HEADS))


def give(online: FeedbackStore, user: str, number: int, id: str | None = None) -> None:
    margin_K = np.random.default_rng(number).normal(size=HEADS)
    online.add(Feedback(user, "micro", margin_K, UNIFORM, id)).result(WAIT)


def state(online: FeedbackStore) -> dict[str, tuple]:
    users = sorted(online._people)
    people = [online.person(user) for user in users]
    return {
        user: (one.count, one.losses_K.tolist(), one.served, list(online._people[user].ids))
        for user, one in zip(users, people, strict=True)
    }


def reopened(directory: Path, **settings: int) -> dict[str, tuple]:
    online = make_online(directory, **settings)
    found = state(online)
    online.close()
    return found


def test_feedback_of_one_person_changes_nobody_elses_state(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    give(online, "ann", 1)
    before = state(online)["ann"]
    for number in range(20):
        give(online, "bob", number)
    assert state(online)["ann"] == before
    online.close()


def test_a_restart_restores_the_state_bit_for_bit(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    for number in range(11):
        give(online, ("ann", "bob", "cem")[number % 3], number)
    expected = state(online)
    online.close()
    assert reopened(tmp_path) == expected


def test_a_torn_last_line_is_truncated_at_every_length(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    give(online, "ann", 1)
    expected, whole = state(online), (tmp_path / JOURNAL).read_bytes()
    give(online, "bob", 2)
    online.close()
    longer = (tmp_path / JOURNAL).read_bytes()
    for size in range(len(whole), len(longer), 7):
        (tmp_path / JOURNAL).write_bytes(longer[:size])
        assert reopened(tmp_path) == expected
        assert (tmp_path / JOURNAL).read_bytes() == whole
    online = make_online(tmp_path)
    give(online, "bob", 2)
    assert state(online).keys() == {"ann", "bob"}
    online.close()


def test_a_changed_moved_or_missing_line_is_an_error(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    for number in range(3):
        give(online, "ann", number)
    online.close()
    header, one, two, three = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    changed = two.replace(b'"user":"ann"', b'"user":"bob"')
    for lines in ([one, changed, three], [one, three], [two, one, three], [one, two[:-2] + b"\n"]):
        (tmp_path / JOURNAL).write_bytes(header + b"".join(lines))
        with pytest.raises(JournalError, match="checksum"):
            make_online(tmp_path)


def test_the_same_id_counts_once_also_after_a_restart(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    for _ in range(2):
        give(online, "ann", 1, "first")
    give(online, "bob", 1, "first")
    expected = state(online)
    assert [one[0] for one in expected.values()] == [1, 1]
    online.close()
    online = make_online(tmp_path)
    receipt = online.add(Feedback("ann", "micro", np.ones(HEADS), UNIFORM, "first"))
    assert receipt.result(WAIT).repeated
    assert state(online) == expected
    online.close()


def test_rollback_leaves_the_first_ones_and_delete_nothing(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    for number in range(3):
        give(online, "ann", number)
        give(online, "bob", number)
    give(online, "ann", 99)
    records = online.records("ann")
    assert online.rollback("ann", 3).result(WAIT) == 1
    assert online.records("ann") == records[:3]
    curves = regret_curves(records[:3], HEADS)
    assert len(curves.head) == len(curves.mixture) == 3
    assert curves.head[-1] == online.person("ann").regret
    assert curves.mixture[-1] == online.person("ann").regret_mixture
    bob = state(online)["bob"]
    assert online.delete("ann").result(WAIT) == 3
    assert state(online) == {"bob": bob}
    assert not any(b"ann" in path.read_bytes() for path in tmp_path.iterdir())
    assert online.delete("ann").result(WAIT) == 0
    give(online, "bob", 50)
    expected = state(online)
    online.close()
    assert reopened(tmp_path) == expected


def test_a_failed_write_is_never_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = make_online(tmp_path)
    give(online, "ann", 1, "one")
    expected = state(online)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        with pytest.raises(JournalError, match="No space"):
            give(online, "ann", 2, "two")
    monkeypatch.undo()
    with pytest.raises(JournalError, match="start the service again"):
        give(online, "ann", 2, "two")
    assert online.person("ann").count == expected["ann"][0]
    online.close()
    assert reopened(tmp_path) == expected


def test_comparisons_that_wait_are_written_in_groups_of_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "MAX_COMMIT", 2)
    online, sizes, go = make_online(tmp_path), [], threading.Event()
    append = online.journal.append

    def write(records: list[Any]) -> None:
        assert go.wait(WAIT)
        sizes.append(len(records))
        append(records)

    monkeypatch.setattr(online.journal, "append", write)
    given = [Feedback("ann", "micro", np.ones(HEADS), UNIFORM) for _ in range(6)]
    waiting = [online.add(one) for one in given]
    go.set()
    assert [one.result(WAIT).repeated for one in waiting] == [False] * 6
    assert max(sizes) == 2 and sum(sizes) == 6
    online.close()


def test_one_writer_and_one_set_of_heads(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    with pytest.raises(JournalError, match="another process"):
        make_online(tmp_path)
    online.close()
    with pytest.raises(JournalError, match="other heads"):
        FeedbackStore(tmp_path, HEADS, {"heads_sha256": "another"}, HedgeRule())
    assert reopened(tmp_path) == {}


def test_more_people_than_may_be_kept_are_refused(tmp_path: Path) -> None:
    online = make_online(tmp_path, max_people=1)
    give(online, "ann", 1)
    with pytest.raises(FullError, match=r"serve\.online\.users"):
        give(online, "bob", 1)
    give(online, "ann", 2)
    online.close()


def test_the_journal_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    online = make_online(tmp_path)
    give(online, "ann", 1)
    online.close()
    assert (tmp_path / JOURNAL).stat().st_mode & 0o077 == 0
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    margin_K = np.random.default_rng(1).normal(size=HEADS)
    win_C = np.exp(-bt_losses(tastes(HEADS) @ margin_K))
    expected = -np.log(0.8 * win_C[:HEADS].mean() + 0.2 * win_C[HEADS:].mean())
    assert json.loads(lines[1])["record"]["served"] == pytest.approx(expected)
