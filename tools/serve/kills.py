"""``python -m micro_rm.tools.serve.kills --kills 50``: SIGKILL a server under a load of feedback.

Clients send comparisons with unique ids and resend whatever was not acknowledged before a kill.
After every kill the journal must hold every acknowledged comparison exactly once and nothing that
was never sent. At the end the state must equal that of the acknowledged feedback bit for bit.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from micro_rm.serve.online.journal import JOURNAL, read_lines
from micro_rm.tests.serve.fake import HEADS, make_online

USERS = ("user-0", "user-1")

CLIENTS, PATIENCE_S = 4, 60


@dataclass
class KillLog:
    """What was sent and acknowledged, by id, and the problems found."""

    kills: int = 0
    sent: set[str] = field(default_factory=set)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    resent: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged comparisons."""
        return len(self.answers)


def attack(directory: Path, kills: int, seed: int) -> KillLog:
    """Serve and kill repeatedly, checking the journal after each kill; the last stop is clean."""
    rng, log, pending = random.Random(seed), KillLog(), [[] for _ in range(CLIENTS)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(kills + 1):
        last = log.kills == kills
        server = subprocess.Popen(
            [sys.executable, "-m", "micro_rm.tests.serve.fake", str(directory), str(port)]
        )
        stop = threading.Event()
        threads = [
            threading.Thread(target=_client, args=(port, number, log, pending[number], stop))
            for number in range(CLIENTS)
        ]
        try:
            _wait_for(port, server)
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.05, 0.5))
            if last:
                stop.set()
                for thread in threads:
                    thread.join(PATIENCE_S)
        finally:
            server.send_signal(signal.SIGTERM if last else signal.SIGKILL)
            server.wait(PATIENCE_S)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        log.kills += not last
        _check_journal(directory, log, exact=last)
    return log


def _client(
    port: int, number: int, log: KillLog, pending: list[dict[str, Any]], stop: threading.Event
) -> None:
    """Send pending, then new comparisons until ``stop`` is set or the server dies."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        while True:
            resending = bool(pending)
            if not pending:
                if stop.is_set():
                    return
                name = f"{number}-{len(log.sent)}-{random.getrandbits(48):x}"
                pending.append(_comparison(name, number))
            body = pending[0]
            log.sent.add(body["id"])
            log.resent += resending
            connection.request(
                "POST", "/feedback", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status != 200:
                log.problems.append(f"{answer.status}: {content}")
                return
            log.repeated += content["repeated"]
            log.answers[body["id"]] = content
            pending.pop(0)
    except (OSError, http.client.HTTPException, ValueError):
        return  # killed; the next client resends what is pending
    finally:
        connection.close()


def _comparison(name: str, number: int) -> dict[str, Any]:
    return {
        "user": USERS[number % 2],
        "prompt": f"Prompt {name}",
        "chosen": f"yes {name}",
        "rejected": f"no {name}",
        "id": name,
    }


def _check_journal(directory: Path, log: KillLog, *, exact: bool) -> None:
    """Compare the journal and the restored state with what was sent and acknowledged."""
    path = directory / JOURNAL
    if not path.exists():
        return
    ids = [line.record["id"] for line in read_lines(path) if "id" in line.record]
    kept, kill = set(ids), f"after kill {log.kills}"
    if len(kept) < len(ids):
        log.problems.append(f"{kill}: {len(ids) - len(kept)} comparisons are there twice")
    if lost := log.answers.keys() - kept:
        log.problems.append(f"{kill}: {len(lost)} acknowledged comparisons are lost")
    if extra := kept - log.sent:
        log.problems.append(f"{kill}: {len(extra)} comparisons were never sent")
    if exact and kept != log.answers.keys():
        log.problems.append(f"{len(kept - log.answers.keys())} were never acknowledged")
    if _restored_state(directory) != _expected_state(
        [line.record for line in read_lines(path)][1:]
    ):
        log.problems.append(f"{kill}: the state is not that of the journal")


def _restored_state(directory: Path) -> dict[str, Any]:
    online = make_online(directory)
    people = {user: online.person(user) for user in USERS}
    online.close()
    return {user: (p.count, p.losses_K.tolist(), p.served) for user, p in people.items()}


def _expected_state(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The state computed from the records, independently of the code under test."""
    state = {user: (0, np.zeros(HEADS), 0.0) for user in USERS}
    for record in records:
        count, losses_K, served = state[record["user"]]
        losses_K = losses_K + np.logaddexp(0.0, -np.array(record["margins"]))
        state[record["user"]] = count + 1, losses_K, served + record["served"]
    return {
        user: (count, losses_K.tolist(), loss) for user, (count, losses_K, loss) in state.items()
    }


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server does not answer (status {server.poll()})")


def main() -> int:
    """Print a summary; the status is 1 if anything was lost or invented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="micro-rm-kills-") as base:
        log = attack(Path(base), options.kills, options.seed)
    print(
        f"{log.kills} kills, {len(log.sent)} comparisons sent, {log.acknowledged} "
        f"acknowledged, {log.resent} sent again, {log.repeated} of them were there already, "
        f"{len(log.problems)} problems"
    )
    print(*log.problems, sep="\n")
    return int(bool(log.problems))


if __name__ == "__main__":
    sys.exit(main())
