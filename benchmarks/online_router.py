"""Does the shared router learn from feedback? Accuracy of strangers under their wishes.

``python benchmarks/online_router.py --run runs/demo [--feedback 50 200] [--rows 192] [--json]``.
People give feedback on training pairs under their wishes; then test pairs of strangers are scored
under theirs. The last line is JSON. Meant for runs over synthetic text or local files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import micro_rm
from micro_rm.configs.command_line import parse
from micro_rm.configs.data import DataConfig
from micro_rm.configs.serve import OnlineConfig, ServeConfig
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import PreferencePair
from micro_rm.run_dir.files import RECORD
from micro_rm.serve import messages as m
from micro_rm.serve.model import Model
from micro_rm.serve.server import make_service

METHODS = ("micro_stage1", "micro")
PATIENCE_S = 600


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--feedback", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rows", type=int, default=192, help="test rows with a wish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the last line only")
    asked = parser.parse_args()
    pairs = [pair for pair in open_pairs(data_of(asked.run)) if pair.context]
    random.Random(asked.seed).shuffle(pairs)
    given = [pair for pair in pairs if pair.split == "train"]
    test = [pair for pair in pairs if pair.split == "test"][: asked.rows]
    model = micro_rm.load(asked.run)
    rows = []
    for method in METHODS:
        for many in (0, *asked.feedback):
            seconds = taught(model, method, given[:many]) if many else 0.0
            rows.append(
                {
                    "method": method,
                    "feedback": many,
                    "accuracy": accuracy(model, method, test),
                    "update_s": round(seconds, 1),
                }
            )
            model = micro_rm.load(asked.run)  # with the run's own routers
            if not asked.json:
                print(json.dumps(rows[-1]), flush=True)
    print(json.dumps({"name": "online_router", "test_rows": len(test), "rows": rows}))


def data_of(run: Path) -> DataConfig:
    """The data settings of a run's record."""
    config = json.loads((run / RECORD).read_text("utf-8"))["config"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"data": config["data"]}, file)
        file.flush()
        return parse(["check", "--config", file.name])[1].data


def taught(model: Model, method: str, pairs: list[PreferencePair]) -> float:
    """Feedback on pairs, each by another person; seconds of the router's update after it."""
    with tempfile.TemporaryDirectory() as place:
        online = OnlineConfig(dir=place, method=method, router=True, router_every=len(pairs))
        service = make_service(model, ServeConfig(online=online, timeout_s=60))

        async def give() -> None:
            for number, pair in enumerate(pairs):
                question = m.FeedbackQuestion(
                    user=f"user-{number}",
                    prompt=_prompt(pair),
                    chosen=pair.chosen,
                    rejected=pair.rejected,
                    context=pair.context,
                    method=method,
                )
                await service.feedback(question)

        asyncio.run(give())
        start = time.perf_counter()
        learner = service.learner
        assert learner is not None and learner.wait_until_fitted(len(pairs), PATIENCE_S)
        seconds = time.perf_counter() - start
        service.close()
    return seconds


def accuracy(model: Model, method: str, pairs: list[PreferencePair]) -> float:
    """Share of pairs in which the chosen response has the higher reward; ties half."""
    prompts: list[Any] = [[turn._asdict() for turn in pair.prompt] for pair in pairs]
    wishes = [pair.context for pair in pairs]
    chosen, rejected = (
        model.score(prompts, texts, wishes, method=method)
        for texts in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    wins = [
        (a.reward > b.reward) + 0.5 * (a.reward == b.reward)
        for a, b in zip(chosen, rejected, strict=True)
    ]
    return sum(wins) / len(wins)


def _prompt(pair: PreferencePair) -> list[m.Turn]:
    return [m.Turn(**turn._asdict()) for turn in pair.prompt]


if __name__ == "__main__":
    main()
