"""A model without a backbone, and the server process that the kill tests terminate."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from micro_rm.common.errors import UserError
from micro_rm.configs.serve import ServeConfig
from micro_rm.serve.online.people import FeedbackStore
from micro_rm.serve.online.weights import HedgeRule
from micro_rm.serve.service import Service

HEADS = 3


@dataclass(frozen=True)
class FakeScore:
    reward: float
    head_rewards: list[float]
    weights: list[float]
    method: str


class FakeModel:
    """Rewards are a hash of the texts.

    The response ``refuse`` raises a ``UserError``, ``explode`` a bug. Every call takes ``seconds``
    and adds its number of responses to ``batches``.
    """

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.methods = ["micro", "micro_stage1", "single_bt"]
        self.head_names = [f"head {number}" for number in range(HEADS)]
        self.seconds = seconds
        self.batches: list[int] = []

    def default_method(self, *, has_context: bool) -> str:
        return "micro" if has_context else "micro_stage1"

    def score(
        self,
        prompts: Sequence[Any],
        responses: Sequence[str],
        contexts: Sequence[str | None] | None = None,
        *,
        method: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[FakeScore]:
        assert contexts is not None and method is not None
        self.batches.append(len(responses))
        time.sleep(self.seconds)
        if "refuse" in responses:
            raise UserError("text 0: too long; shorten it")
        if "explode" in responses:
            raise ZeroDivisionError("secret words of a user")
        scores = []
        for prompt, response, context in zip(prompts, responses, contexts, strict=True):
            rewards = _numbers(f"{prompt} {response}") if method != "single_bt" else [1.0]
            raw = np.exp(_numbers(f"{prompt} {context}")) if method != "single_bt" else np.ones(1)
            weights = (raw / raw.sum()).tolist()
            reward = float(np.dot(rewards, weights))
            scores.append(FakeScore(reward, list(rewards), weights, method))
        return scores


def make_online(directory: Path, rule: HedgeRule | None = None, **settings: Any) -> FeedbackStore:
    return FeedbackStore(
        directory, HEADS, {"heads_sha256": "fake"}, rule or HedgeRule(), **settings
    )


def make_service(
    directory: Path | None, model: FakeModel | None = None, **settings: Any
) -> Service:
    """A service without a router learner; ``directory`` None disables feedback."""
    config = ServeConfig(**({"timeout_s": 5.0} | settings))
    online = None
    if directory is not None:
        rule = HedgeRule(config.online.eta, config.online.rho, config.online.single)
        online = make_online(directory, rule, max_people=config.online.users)
    return Service(model or FakeModel(), config, online, ("micro", "micro_stage1"))


def _numbers(text: str) -> list[float]:
    digest = hashlib.sha256(text.encode()).digest()
    return [(byte - 127.5) / 64 for byte in digest[:HEADS]]


def main(directory: str, port: str) -> None:
    """Serve until killed."""
    import uvicorn

    from micro_rm.serve.app import make_app

    service = make_service(Path(directory), FakeModel(seconds=0.001))
    uvicorn.run(make_app(service), port=int(port), log_level="critical")


if __name__ == "__main__":
    main(*sys.argv[1:])
