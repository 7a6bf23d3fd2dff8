"""A real, tiny run behind the service, and errors at its start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

import micro_rm
from micro_rm.common.errors import ConfigError
from micro_rm.configs.serve import OnlineConfig, ServeConfig
from micro_rm.serve.app import make_app
from micro_rm.serve.server import make_service, methods_sharing_heads, read_key
from micro_rm.serve.service import Service

QUESTION = {"prompt": "How far?", "responses": ["Far.", "Ask the sun."], "context": "be brief"}
WAIT = 100


def test_a_run_serves_what_it_scores_and_its_router_learns(tiny_run: Path, tmp_path: Path) -> None:
    model = micro_rm.load(tiny_run, device="cpu")
    assert set(methods_sharing_heads(model, "micro")) >= {"micro", "micro_stage1"}
    assert "static_mixture" not in methods_sharing_heads(model, "micro")
    expected = model.score(["How far?"] * 2, QUESTION["responses"], ["be brief"] * 2)
    config = ServeConfig(online=OnlineConfig(dir=str(tmp_path), router=True, router_every=2))
    service = make_service(model, config)
    before = asyncio.run(_talk(service))
    assert [item["reward"] for item in before["results"]] == pytest.approx(
        [score.reward for score in expected], abs=1e-5
    )
    assert before["method"] == "micro"

    learner = service.learner
    assert learner is not None
    taught = model.score(["How far?"] * 2, QUESTION["responses"], ["be brief"] * 2)
    assert taught[0].head_rewards == pytest.approx(expected[0].head_rewards)
    assert not np.allclose(taught[0].weights, expected[0].weights, atol=1e-6)

    # A restart refits the same router; deleting the feedback restores the run's own.
    again = micro_rm.load(tiny_run, device="cpu")
    restarted = make_service(again, config)
    _wait_for(restarted, 2)
    same = again.score(["How far?"] * 2, QUESTION["responses"], ["be brief"] * 2)
    np.testing.assert_allclose(same[0].weights, taught[0].weights, rtol=1e-5)
    assert restarted.online is not None
    assert restarted.online.delete("ann").result(WAIT) == 2
    _wait_for(restarted, 0)
    restarted.close()
    forgotten = again.score(["How far?"] * 2, QUESTION["responses"], ["be brief"] * 2)
    np.testing.assert_allclose(forgotten[0].weights, expected[0].weights, rtol=1e-6)


def test_feedback_is_kept_beside_the_run_unless_another_place_is_named(
    tiny_run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    service = make_service(micro_rm.load(copy, device="cpu"), ServeConfig())
    assert (copy / "online").is_dir()
    service.close()


async def _talk(service: Service) -> Any:
    transport = httpx2.ASGITransport(make_app(service))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.post("/score", json=QUESTION)
        for number in range(2):
            body = {"user": "ann", "prompt": f"How far {number}?", "chosen": "Far."}
            given = await http.post(
                "/feedback", json=body | {"rejected": "Ask.", "context": "be brief"}
            )
            assert given.status_code == 200, given.text
    await asyncio.to_thread(_wait_for, service, 2)
    await asyncio.to_thread(service.close)
    return answer.json()


def _wait_for(service: Service, comparisons: int) -> None:
    assert service.learner is not None
    assert service.learner.wait_until_fitted(comparisons, WAIT), "the router never learnt"


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MICRO_RM_API_KEY", raising=False)
    assert read_key(ServeConfig()) is None
    with pytest.raises(ConfigError, match=r"serve\.host.*MICRO_RM_API_KEY"):
        read_key(ServeConfig(host="0.0.0.0"))
    monkeypatch.setenv("MICRO_RM_API_KEY", "short")
    with pytest.raises(ConfigError, match="16 characters"):
        read_key(ServeConfig())
    monkeypatch.setenv("MICRO_RM_API_KEY", "long-enough-for-a-key")
    assert read_key(ServeConfig(host="0.0.0.0")) == "long-enough-for-a-key"


def test_methods_without_heads_or_router_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    model = micro_rm.load(tiny_run, device="cpu")
    for method, router in (("unknown", False), ("static_mixture", True)):
        online = OnlineConfig(dir=str(tmp_path), method=method, router=router)
        with pytest.raises(ConfigError, match=r"serve\.online"):
            make_service(model, ServeConfig(online=online))
