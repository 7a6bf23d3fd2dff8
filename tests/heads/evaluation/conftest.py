"""Fixtures: scored methods from plain arrays, and a report of four of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation import protocol
from micro_rm.heads.evaluation.answers import answers
from micro_rm.heads.evaluation.gallery import gallery
from micro_rm.heads.evaluation.report import build_report
from micro_rm.heads.evaluation.verdict import verdict, warnings
from micro_rm.heads.methods.interface import predict_heads, predict_reward

MakeScored = Callable[..., protocol.ScoredMethod]


@pytest.fixture(scope="session")
def make_scored() -> MakeScored:
    """Margins (N, K), optionally log weights (S, N, K), a rule and a mask, to a scored method."""

    def make(
        delta_NxK: np.ndarray,
        log_weights_SxNxK: np.ndarray | None = None,
        rule: Any = "R1",
        counts: np.ndarray | None = None,
    ) -> protocol.ScoredMethod:
        if log_weights_SxNxK is None:
            log_weights_SxNxK = np.full((1, *delta_NxK.shape), -np.log(delta_NxK.shape[1]))
        return protocol.score(predict_heads(rule, delta_NxK, log_weights_SxNxK), rule, counts)

    return make


@pytest.fixture(scope="session")
def make_reward() -> MakeScored:
    """Differences (S, N) of a reward, and a mask, to a scored method without heads."""

    def make(delta_SxN: np.ndarray, counts: np.ndarray | None = None) -> protocol.ScoredMethod:
        return protocol.score(predict_reward(np.asarray(delta_SxN)), "R2", counts)

    return make


@pytest.fixture(scope="session")
def make_test_rows() -> Callable[..., protocol.TestSet]:
    """Attribute and prompt of every row, and its wording where a test has any, to a test set."""

    def make(
        attribute: list[int] | np.ndarray,
        prompt: list[int] | np.ndarray,
        *names: str,
        wording: np.ndarray | None = None,
    ) -> protocol.TestSet:
        attribute_N, prompt_N = np.asarray(attribute), np.asarray(prompt)
        return protocol.TestSet(
            table_rows=np.arange(attribute_N.size),
            attribute_N=attribute_N,
            prompt_N=prompt_N,
            attributes=names,
            prompts=int(prompt_N.max()) + 1,
            wording_N=wording,
        )

    return make


@pytest.fixture(scope="session")
def make_report(
    make_scored: MakeScored,
    make_reward: MakeScored,
    make_test_rows: Callable[..., protocol.TestSet],
) -> Callable[..., dict[str, Any]]:
    """A complete report, as ``stages.report`` leaves it, of four methods on two attributes.

    ``micro`` has two draws and is right; ``single_bt`` has one head and guesses, and so does
    ``length_only``, which has none. ``say`` makes the texts of the rows out of short ones.
    """

    def make(
        dataset: str = "tiny",
        names: tuple[str, str] = ("brief", "polite"),
        account: Mapping[str, int] | None = None,
        say: Callable[[str], str] = str,
    ) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        attribute_N, prompt_N = np.tile([0, 1], 40), np.repeat(np.arange(40), 2)
        wording_N = 2 * (prompt_N % 4) + attribute_N
        test = make_test_rows(attribute_N, prompt_N, *names, wording=wording_N)
        opposed_NxK = np.where(attribute_N == 0, 2.0, -2.0)[:, None] * np.array([[1.0, -1.0]])
        delta_NxK = opposed_NxK + rng.normal(size=(80, 2))
        routed_NxK = np.where((attribute_N == 0)[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
        scored = {
            "length_only": make_reward(rng.normal(size=(1, 80))),
            "single_bt": make_scored(rng.normal(size=(80, 1))),
            "static_mixture": make_scored(delta_NxK),
            "micro": make_scored(delta_NxK, np.log(np.stack([routed_NxK, routed_NxK]))),
        }
        given = dict.fromkeys(scored, "prompt") | {"micro": "context"}
        seeds = {name: [one] for name, one in scored.items()}
        report = build_report(dataset, test, seeds, given, EvaluateConfig())
        for name, entry in report["methods"].items():
            entry["summary"] = f"What {name} does."
        report["confidence"] = 0.95
        report["budget"] = {
            "group": "attribute",
            "source": "train",
            "rows_per_group": 7,
            "groups": 2,
            "draws": 2,
            "apart": ["prompt", "response"],
        }
        report["skipped"] = {}
        report["studies"] = {}
        report["benchmark"] = None
        report["published"] = []
        report["account"] = {}
        texts = {
            "prompt": [json.dumps([["user", say(f"Question {n}?")]]) for n in prompt_N],
            "chosen": [say(f"Good answer {row}.") for row in range(80)],
            "rejected": [say(f"Bad answer {row}.") for row in range(80)],
            "context": [say(("Keep it brief.", "Be polite.")[a]) for a in attribute_N],
        }
        report["gallery"] = gallery(
            SimpleNamespace(text=texts), test, scored, ["micro", "static_mixture"]
        )
        report["prompts"] = None
        report["answers"] = answers(report)
        report["caveats"] = ["The text is synthetic."]
        report["verdict"] = verdict(report)
        nothing = {"refused": 0, "shortened_sequences": 0, "prompt_overlap": 0}
        report["warnings"] = warnings(report, nothing if account is None else account)
        report["record"] = {"seed": 3, "stages": {}}
        return report

    return make
