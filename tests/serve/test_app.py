"""The service over HTTP, in process: responses, refusals, and what must not leak."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from micro_rm.common.errors import ConfigError
from micro_rm.configs.serve import OnlineConfig, ServeConfig
from micro_rm.serve.app import make_app
from micro_rm.serve.service import Service
from micro_rm.tests.serve.fake import FakeModel, make_service

KEY = "a-key-of-the-tests-0123"
SCORE = {"prompt": "How?", "responses": ["So.", "Like this."], "context": "be brief"}
FEEDBACK = {"user": "ann", "prompt": "How?", "chosen": "So.", "rejected": "Like this."}


@asynccontextmanager
async def client(service: Service, key: str | None = None, **options: Any) -> AsyncIterator[Any]:
    transport = httpx2.ASGITransport(make_app(service, key))
    async with httpx2.AsyncClient(
        transport=transport, **({"base_url": "http://localhost"} | options)
    ) as http:
        yield http
    await asyncio.to_thread(service.close)


def ask(service: Service, questions: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with client(service, **options) as http:
            await questions(http)

    asyncio.run(run())


def test_scores_are_the_models_and_feedback_reweights_the_heads_of_one_person(
    tmp_path: Path,
) -> None:
    model = FakeModel()

    async def questions(http: Any) -> None:
        plain = (await http.post("/score", json=SCORE)).json()
        expected = FakeModel().score(
            ["How?"] * 2, SCORE["responses"], ["be brief"] * 2, method="micro"
        )
        assert [item["reward"] for item in plain["results"]] == pytest.approx(
            [score.reward for score in expected]
        )
        assert plain["weights"] == expected[0].weights
        assert plain["best"] == int(np.argmax([score.reward for score in expected]))
        assert plain["method"] == "micro" and len(plain["heads"]) == 3
        given = (await http.post("/feedback", json=FEEDBACK)).json()
        assert given["comparisons"] == 1 and not given["repeated"]
        personal = (await http.post("/score", json=SCORE | {"user": "ann"})).json()
        raw = np.array(plain["weights"]) * np.exp(-np.array(given["losses"]))
        assert personal["weights"] == pytest.approx((raw / raw.sum()).tolist())
        assert personal["weights"] != pytest.approx(plain["weights"])
        other = (await http.post("/score", json=SCORE | {"user": "bob"})).json()
        assert other["weights"] == plain["weights"] and other["comparisons"] == 0
        routed = (await http.post("/route", json={"prompt": "How?", "context": "be brief"})).json()
        assert routed["weights"] == plain["weights"]

    ask(make_service(tmp_path, model, online=OnlineConfig(single=1.0)), questions)


def test_the_most_informative_comparison_is_ranked_first(tmp_path: Path) -> None:
    service = make_service(tmp_path)

    async def questions(http: Any) -> None:
        await http.post("/feedback", json=FEEDBACK)
        candidates = [
            {"prompt": f"How {number}?", "responses": ["So.", "Like this."]} for number in range(5)
        ]
        candidates.append({"prompt": "How?", "responses": ["Same.", "Same."]})
        asked = {"user": "ann", "candidates": candidates, "context": "be brief"}
        ranked = (await http.post("/ask", json=asked)).json()
        margins = [
            np.subtract(*[item["head_rewards"] for item in answer.json()["results"]])
            for answer in [await http.post("/score", json=candidate) for candidate in candidates]
        ]
        person = service.people.person("ann")
        expected = service.people.rule.information(person, np.array(margins))
        assert ranked["information"] == pytest.approx(expected.tolist())
        assert ranked["order"] == np.argsort(-expected, kind="stable").tolist()
        assert ranked["order"][-1] == 5 and ranked["information"][5] == pytest.approx(0, abs=1e-12)
        assert ranked["comparisons"] == 1 and max(ranked["information"]) > 1e-3
        for wrong in (
            asked | {"candidates": []},
            asked | {"candidates": [{"prompt": "How?", "responses": ["one"]}]},
            asked | {"method": "single_bt"},
            {"candidates": candidates},
        ):
            assert (await http.post("/ask", json=wrong)).status_code == 422
        many = asked | {"candidates": candidates * 100}
        assert (await http.post("/ask", json=many)).status_code == 413

    ask(service, questions)


def test_get_reward_follows_openrlhfs_format(tmp_path: Path) -> None:
    async def questions(http: Any) -> None:
        sent = {
            "query": ["How? So.<|eot_id|><pad>", "How? Like this."],
            "prompts": ["How?"] * 2,
            "labels": ["", ""],
        }
        answer = (await http.post("/get_reward?context=be%20brief", json=sent)).json()
        scores = (await http.post("/score", json=SCORE)).json()
        assert answer["rewards"] == answer["scores"]
        assert answer["rewards"] == pytest.approx([item["reward"] for item in scores["results"]])
        assert all(len(values) == 2 for values in answer["extra_logs"].values())
        for wrong in (
            {"query": ["Why? So."], "prompts": ["How?"]},
            {"query": ["How? So."], "prompts": ["How?", "Why?"]},
            {"query": ["<|im_start|>user How? So."], "prompts": ["<|im_start|>user How?"]},
            {"query": ["How? So."]},
        ):
            refused = await http.post("/get_reward", json=wrong)
            assert refused.status_code == 422 and refused.json()["error"]

    ask(make_service(tmp_path), questions)


def test_malformed_questions_are_refused_in_one_sentence(tmp_path: Path) -> None:
    wrong = [
        SCORE | {"responses": []},
        SCORE | {"responses": "So."},
        SCORE | {"prompt": 3},
        SCORE | {"prompt": []},
        SCORE | {"prompt": [{"role": "system", "content": "x"}]},
        SCORE | {"prompt": [{"role": "robot", "content": "x"}]},
        SCORE | {"method": "unknown"},
        SCORE | {"method": "single_bt", "user": "ann"},
        SCORE | {"user": "ann/../bob"},
        SCORE | {"user": "a" * 129},
        SCORE | {"wish": "x"},
        SCORE | {"responses": ["refuse"]},
    ]

    async def questions(http: Any) -> None:
        for question in wrong:
            answer = await http.post("/score", json=question)
            assert answer.status_code == 422 and answer.json().keys() == {"error"}, question
        for body in (
            b"",
            b"{",
            b"\xff\xfe",
            b'{"prompt": "\\ud800", "responses": ["x"]}',
            b"[" * 9999,
        ):
            answer = await http.post(
                "/score", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code in (400, 422) and answer.json().keys() == {"error"}, body
        same = await http.post("/feedback", json=FEEDBACK | {"rejected": "So."})
        assert same.status_code == 422
        assert (await http.get("/score")).status_code == 405
        assert (await http.get("/users/nobody")).status_code == 404

    ask(make_service(tmp_path), questions)


def test_oversized_questions_are_refused(tmp_path: Path) -> None:
    service = make_service(tmp_path, body_bytes=2000, text_characters=100, responses=3)

    async def drops(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b" " * 100

    async def questions(http: Any) -> None:
        long = await http.post("/score", json=SCORE | {"context": "x" * 101})
        many = await http.post("/score", json=SCORE | {"responses": ["x"] * 4})
        announced = await http.post("/score", content=b" " * 2001)
        dripping = await http.post("/score", content=drops(21))
        query = await http.post("/get_reward", json={"query": ["x" * 101], "prompts": ["x"]})
        for answer in (long, many, announced, dripping, query):
            assert answer.status_code == 413 and "at most" in answer.json()["error"]
        assert (await http.post("/score", json=SCORE)).status_code == 200

    ask(service, questions)


def test_without_the_key_only_health_is_answered(tmp_path: Path) -> None:
    service = make_service(tmp_path)
    routes = [
        ("POST", "/score"),
        ("POST", "/feedback"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/users/ann"),
        ("DELETE", "/users/ann"),
        ("GET", "/nothing"),
    ]

    async def questions(http: Any) -> None:
        for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Basic {KEY}"}):
            for method, path in routes:
                answer = await http.request(method, path, json=SCORE, headers=headers)
                assert answer.status_code == 401 and answer.headers["www-authenticate"]
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            answer = await http.post("/score", json=SCORE, headers=headers)
            assert answer.status_code == 200
        assert (await http.get("/healthz")).status_code == 200

    ask(service, questions, key=KEY)


def test_a_page_under_another_name_does_not_reach_a_service_without_key(tmp_path: Path) -> None:
    async def questions(http: Any) -> None:
        for host, status in (
            ("evil.example", 403),
            ("127.0.0.1.evil.example:8000", 403),
            ("", 403),
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:8000", 200),
        ):
            answer = await http.post("/score", json=SCORE, headers={"host": host})
            assert answer.status_code == status, host

    ask(make_service(tmp_path), questions)


def test_texts_reach_neither_logs_nor_the_answer_of_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def questions(http: Any) -> None:
        answer = await http.post("/score", json=SCORE | {"responses": ["explode", "my diary"]})
        assert answer.status_code == 500
        assert answer.json() == {"error": "the service failed; its log says where"}
        await http.post("/score", json={"prompt": 3, "diary": "my diary"})
        assert "diary" not in (await http.get("/metrics")).text
        after = await http.post("/score", json=SCORE)
        assert after.status_code == 200, "the model's thread goes on"

    with caplog.at_level(logging.DEBUG):
        ask(make_service(tmp_path), questions)
    logged = caplog.text + "".join(capfd.readouterr())
    # Innermost frame first, and the ones around it.
    frames = re.findall(r"ZeroDivisionError at (.*)", caplog.text)
    assert len(frames) == 1 and len(frames[0].split(" < ")) == 6
    assert "fake.py" in frames[0].split(" < ")[0]
    assert "diary" not in logged and "secret words" not in logged


def test_the_model_sees_powers_of_two_of_responses(tmp_path: Path) -> None:
    """Prediction is compiled per number of rows."""
    model = FakeModel()

    async def questions(http: Any) -> None:
        for count in (1, 2, 3, 5):
            answer = await http.post("/score", json=SCORE | {"responses": ["a"] * count})
            assert answer.status_code == 200 and len(answer.json()["results"]) == count

    ask(make_service(tmp_path, model), questions)
    assert model.batches == [1, 2, 4, 8]


def test_a_full_queue_sends_retry_after_and_a_slow_answer_times_out(
    tmp_path: Path,
) -> None:
    service = make_service(tmp_path, FakeModel(seconds=0.4), queue=2, batch_texts=2, timeout_s=0.6)

    async def questions(http: Any) -> None:
        answers = await asyncio.gather(*(http.post("/score", json=SCORE) for _ in range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert set(statuses) == {200, 503, 504}
        for answer in answers:
            assert answer.status_code != 503 or answer.headers["retry-after"] == "1"

    ask(service, questions)


def test_requests_that_arrive_together_are_computed_together(tmp_path: Path) -> None:
    model = FakeModel(seconds=0.05)

    async def questions(http: Any) -> None:
        answers = await asyncio.gather(*(http.post("/score", json=SCORE) for _ in range(17)))
        assert {answer.status_code for answer in answers} == {200}

    ask(make_service(tmp_path, model), questions)
    assert len(model.batches) < 17
    assert all(size & (size - 1) == 0 for size in model.batches), "powers of two only"


def test_a_person_can_be_inspected_exported_rolled_back_and_deleted(tmp_path: Path) -> None:
    async def questions(http: Any) -> None:
        for number in range(3):
            body = FEEDBACK | {"prompt": f"How {number}?", "id": f"id-{number}"}
            await http.post("/feedback", json=body)
        assert (await http.post("/feedback", json=body)).json()["repeated"]
        shown = (await http.get("/users/ann")).json()
        assert shown["comparisons"] == 3 and len(shown["regret_curve"]) == 3
        assert shown["regret"] == shown["regret_curve"][-1]
        drawn = await http.get("/users/ann/regret.svg")
        assert drawn.headers["content-type"] == "image/svg+xml"
        lines = re.findall(r'<polyline points="([^"]*)"', drawn.text)
        assert [len(line.split()) for line in lines] == [4, 4] and ">3<" in drawn.text
        assert shown["regret_mixture"] == shown["regret_mixture_curve"][-1] >= shown["regret"]
        assert (await http.get("/users/nobody/regret.svg")).status_code == 404
        exported = (await http.get("/users/ann/export")).json()["records"]
        assert [record["id"] for record in exported] == ["id-0", "id-1", "id-2"]
        assert "How" not in json.dumps(exported), "the texts are not kept"
        rolled = await http.post("/users/ann/rollback", json={"keep": 1})
        assert rolled.json() == {"user": "ann", "dropped": 2}
        assert (await http.delete("/users/ann")).json() == {"user": "ann", "dropped": 1}
        assert (await http.get("/users/ann/export")).status_code == 404

    ask(make_service(tmp_path), questions)


def test_without_feedback_there_are_no_people() -> None:
    async def questions(http: Any) -> None:
        assert (await http.post("/feedback", json=FEEDBACK)).status_code == 404
        assert (await http.post("/score", json=SCORE | {"user": "ann"})).status_code == 404
        assert (await http.post("/score", json=SCORE)).status_code == 200
        described = (await http.get("/openapi.json")).json()["paths"]
        assert described.keys() == {"/score", "/route", "/get_reward", "/healthz", "/metrics"}

    ask(make_service(None), questions)


@pytest.mark.parametrize(
    "settings", [{"port": 70000}, {"queue": 0}, {"timeout_s": 0}, {"end_marks": [""]}]
)
def test_settings_have_limits(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"serve.{next(iter(settings))}"):
        ServeConfig(**settings)
    with pytest.raises(ConfigError, match=r"serve\.online\.eta"):
        OnlineConfig(eta=0)
