"""``python -m micro_rm.tests.serve.kills --kills 50``: kill a server under a load of feedback.

Clients send comparisons with ids of their own and, after a kill, send again what nobody
acknowledged. At every restart the journal must hold all that was acknowledged and nothing that was
never sent; at the end the state must be that of the acknowledged feedback, to the last bit.
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
class Tally:
    """What was sent and acknowledged, by id, and what went wrong."""

    kills: int = 0
    sent: set[str] = field(default_factory=set)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    resent: int = 0
    repeated: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        """Comparisons that the service promised to keep."""
        return len(self.answers)


def attack(directory: Path, kills: int, seed: int) -> Tally:
    """Serve, kill, look, serve again; then compare."""
    rng, tally, pending = random.Random(seed), Tally(), [[] for _ in range(CLIENTS)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for _ in range(kills + 1):
        last = tally.kills == kills
        server = subprocess.Popen(
            [sys.executable, "-m", "micro_rm.tests.serve.fake", str(directory), str(port)]
        )
        stop = threading.Event()
        threads = [
            threading.Thread(target=_client, args=(port, number, tally, pending[number], stop))
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
        tally.kills += not last
        _look(directory, tally, exact=last)
    return tally


def _client(
    port: int, number: int, tally: Tally, pending: list[dict[str, Any]], stop: threading.Event
) -> None:
    """Send what is pending, then new comparisons, until told to stop or the server is gone."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        while True:
            again = bool(pending)
            if not pending:
                if stop.is_set():
                    return
                name = f"{number}-{len(tally.sent)}-{random.getrandbits(48):x}"
                pending.append(_comparison(name, number))
            body = pending[0]
            tally.sent.add(body["id"])
            tally.resent += again
            connection.request(
                "POST", "/feedback", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            content = json.loads(answer.read())
            if answer.status != 200:
                tally.problems.append(f"{answer.status}: {content}")
                return
            tally.repeated += content["repeated"]
            tally.answers[body["id"]] = content
            pending.pop(0)
    except (OSError, http.client.HTTPException, ValueError):
        return  # killed; what is pending is sent again
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


def _look(directory: Path, tally: Tally, *, exact: bool) -> None:
    path = directory / JOURNAL
    if not path.exists():
        return
    ids = [line.record["id"] for line in read_lines(path) if "id" in line.record]
    kept, kill = set(ids), f"after kill {tally.kills}"
    if len(kept) < len(ids):
        tally.problems.append(f"{kill}: {len(ids) - len(kept)} comparisons are there twice")
    if lost := tally.answers.keys() - kept:
        tally.problems.append(f"{kill}: {len(lost)} acknowledged comparisons are lost")
    if extra := kept - tally.sent:
        tally.problems.append(f"{kill}: {len(extra)} comparisons were never sent")
    if exact and kept != tally.answers.keys():
        tally.problems.append(f"{len(kept - tally.answers.keys())} were never acknowledged")
    if _state(directory) != _state_of([line.record for line in read_lines(path)][1:]):
        tally.problems.append(f"{kill}: the state is not that of the journal")


def _state(directory: Path) -> dict[str, Any]:
    online = make_online(directory)
    people = {user: online.person(user) for user in USERS}
    online.close()
    return {user: (one.count, one.losses_K.tolist(), one.served) for user, one in people.items()}


def _state_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same from the lines of the journal, without the code that keeps people."""
    state = {user: (0, np.zeros(HEADS), 0.0) for user in USERS}
    for record in records:
        count, losses_K, served = state[record["user"]]
        losses_K = losses_K + np.logaddexp(0.0, -np.array(record["margins"]))
        state[record["user"]] = count + 1, losses_K, served + record["served"]
    return {
        user: (count, losses_K.tolist(), loss) for user, (count, losses_K, loss) in state.items()
    }


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the server does not answer (status {server.poll()})")


def main() -> int:
    """Print what happened; 1 if anything was lost or invented."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="micro-rm-kills-") as base:
        tally = attack(Path(base), asked.kills, asked.seed)
    print(
        f"{tally.kills} kills, {len(tally.sent)} comparisons sent, {tally.acknowledged} "
        f"acknowledged, {tally.resent} sent again, {tally.repeated} of them were there already, "
        f"{len(tally.problems)} problems"
    )
    print(*tally.problems, sep="\n")
    return int(bool(tally.problems))


if __name__ == "__main__":
    sys.exit(main())
