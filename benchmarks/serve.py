"""The service against the same model called one request at a time: latency, throughput, memory.

``python benchmarks/serve.py --run runs/demo [--soak 10000 [--different 10000]] [--json]``. Every
request has a prompt, two responses and a wish that nobody sent before, so that no vector is
remembered. Clients and service share the machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

WORDS = ("egg", "moon", "river", "bread", "stone", "paper", "engine", "cloud", "garden", "winter")
CLIENTS = (1, 8, 64)
TOLERANCE = 0.05  # of the spread of the rewards: batches differ in bfloat16 rounding
READY_S = 300


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run over text, such as runs/demo")
    parser.add_argument("--requests", type=int, default=300, help="per number of clients")
    parser.add_argument("--soak", type=int, default=0, help="requests of the memory test")
    parser.add_argument("--different", type=int, default=200, help="of them")
    parser.add_argument("--port", type=int, default=18341)
    parser.add_argument("--json", action="store_true", help="the last line only")
    asked = parser.parse_args()
    questions = [question(number) for number in range(asked.requests)]
    # In a thread, as in the service: torch shares out its work differently in the main thread,
    # which is several times slower where other programs use the cores too.
    with ThreadPoolExecutor(1) as thread:
        rewards, alone = thread.submit(one_at_a_time, asked.run, questions).result()
    rows = [{"clients": 0, **alone}]
    if not asked.json:
        print(line(rows[0]), flush=True)
    with_server = asyncio.run(measure(asked, questions, rewards))
    rows += with_server["rows"]
    if not asked.json:
        for row in rows[1:]:
            print(line(row))
        if asked.soak:
            print(with_server["soak"])
    last = rows[-1]
    print(
        json.dumps(
            {
                "name": "serve",
                "equal": with_server["equal"],
                "ours_s": last["seconds"],
                "peers": {
                    "one_at_a_time": {
                        "seconds": alone["seconds"],
                        "ratio": alone["seconds"] / last["seconds"],
                    }
                },
                "rows": rows,
                "soak": with_server["soak"],
            }
        )
    )


def question(number: int, salt: str = "") -> dict[str, Any]:
    """A question of some 60 tokens; another one for every number."""
    rng = random.Random(f"{salt}{number}")

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    return {
        "prompt": f"Question {salt}{number}: what about {words(8)}?",
        "responses": [f"{words(rng.randrange(10, 60))}." for _ in range(2)],
        "context": f"keep to {words(2)}",
    }


def one_at_a_time(run: Path, questions: list[dict[str, Any]]) -> tuple[list[float], dict[str, Any]]:
    """Rewards of first responses, and times, of the model called without a service."""
    import micro_rm

    model = micro_rm.load(run)

    def ask(one: dict[str, Any]) -> float:
        many = len(one["responses"])
        scores = model.score([one["prompt"]] * many, one["responses"], [one["context"]] * many)
        return scores[0].reward

    for number in range(5):
        ask(question(number, "warm"))
    rewards, seconds = [], []
    for one in questions:
        start = time.perf_counter()
        rewards.append(ask(one))
        seconds.append(time.perf_counter() - start)
    return rewards, summary(seconds, sum(seconds))


async def measure(
    asked: argparse.Namespace, questions: list[dict[str, Any]], rewards: list[float]
) -> dict[str, Any]:
    """The service in a process of its own, under so many clients at once."""
    command = "from micro_rm.pipeline import main; import sys; sys.exit(main())"
    server = subprocess.Popen(
        [
            *(sys.executable, "-c", command, "serve", f"--run.dir={asked.run}"),
            *(
                f"--serve.port={asked.port}",
                "--serve.cached_texts=1000",
                "--serve.online.enabled=false",
            ),
        ],
        stdout=subprocess.DEVNULL,
    )
    limits = httpx2.Limits(max_connections=128, max_keepalive_connections=128)
    try:
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{asked.port}", timeout=60, limits=limits
        ) as http:
            await ready(http, server)
            # What the first answers are compared with was computed alone, in this process.
            found, _ = await load(http, questions, 8)
            spread = float(np.std(rewards))
            equal = bool(np.abs(np.array(found) - rewards).max() < TOLERANCE * spread)
            rows = []
            for clients in CLIENTS:
                fresh = [question(number, f"{clients}-") for number in range(len(questions))]
                _, row = await load(http, fresh, clients)
                rows.append({"clients": clients, **row})
            soak = None
            if asked.soak:
                soak = await endure(http, asked.soak, asked.different, server.pid)
    finally:
        server.terminate()
        server.wait(60)
    return {"equal": equal, "rows": rows, "soak": soak}


async def ready(http: httpx2.AsyncClient, server: subprocess.Popen[bytes]) -> None:
    """Wait until the service answers."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until and server.poll() is None:
        try:
            (await http.get("/healthz")).raise_for_status()
            return
        except httpx2.TransportError:
            await asyncio.sleep(0.2)
    raise SystemExit(f"the service does not answer (status {server.poll()})")


async def load(
    http: httpx2.AsyncClient, questions: list[dict[str, Any]], clients: int
) -> tuple[list[float], dict[str, Any]]:
    """Rewards of first responses, and times; any other status than 200 ends the benchmark."""
    rewards, seconds = [0.0] * len(questions), []
    places = iter(range(len(questions)))

    async def client() -> None:
        for place in places:
            start = time.perf_counter()
            answer = await http.post("/score", json=questions[place])
            seconds.append(time.perf_counter() - start)
            answer.raise_for_status()
            rewards[place] = answer.json()["results"][0]["reward"]

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return rewards, summary(seconds, time.perf_counter() - start)


async def endure(
    http: httpx2.AsyncClient, requests: int, different: int, pid: int
) -> dict[str, Any]:
    """Many requests, so many different ones; memory of the service after every tenth of them."""
    sizes, tenth = [], max(requests // 10, 1)
    for part in range(10):
        numbers = range(part * tenth, (part + 1) * tenth)
        await load(http, [question(n % different, "soak-") for n in numbers], 64)
        sizes.append(resident_mb(pid))
    return {"requests": 10 * tenth, "different": different, "errors": 0, "resident_mb": sizes}


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return round(int(text.split()[1]) / 1000, 1)
    raise SystemExit(f"process {pid} has no resident memory")


def summary(seconds: list[float], wall: float) -> dict[str, Any]:
    """Percentiles of latencies in milliseconds, requests per second."""
    p50, p95, p99 = (round(1000 * float(np.percentile(seconds, q)), 1) for q in (50, 95, 99))
    rate = round(len(seconds) / wall, 1)
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "per_s": rate, "seconds": wall}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    who = f"{row['clients']} clients" if row["clients"] else "one at a time, no service"
    return (
        f"{who:<26} p50 {row['p50_ms']:>7} ms  p95 {row['p95_ms']:>7} ms  p99 "
        f"{row['p99_ms']:>7} ms  {row['per_s']:>6} requests/s"
    )


if __name__ == "__main__":
    main()
