"""``micro-rm score``: a question with its answers, or lines of JSON from a file or a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from ..common.errors import ConfigError, UserError
from ..configs.score import ScoreConfig
from .model import Model, Prompt, Score

KEYS = {"prompt", "response", "responses", "context", "method", "group"}
BATCH = 64
SHOWN = 60


def score_question(model: Model, asked: ScoreConfig) -> dict[str, Any]:
    """The responses of a command line, the best one first.

    Raises ``ConfigError`` without a prompt or a response.
    """
    if asked.prompt is None or not asked.responses:
        raise ConfigError(
            "score: expected --prompt TEXT and --response TEXT (again for more), or a file of JSON "
            'lines such as {"prompt": "...", "responses": ["..."], "context": "..."}, or - for '
            "standard input"
        )
    line = {
        "prompt": asked.prompt,
        "responses": asked.responses,
        "context": asked.context,
        "method": asked.method,
        "group": asked.group,
    }
    return _scored([_parsed(line)], model)[0]


def score_lines(model: Model, lines: Iterable[str], asked: ScoreConfig) -> Iterator[dict[str, Any]]:
    """A result for every line that is not blank, in order; a bad one says why and stops nothing.

    What a line leaves out is taken from the command line.
    """
    waiting: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            waiting.append(_parsed(_with_defaults(json.loads(line), asked)) | {"line": number})
        except (UserError, ValueError, RecursionError) as error:
            waiting.append({"line": number, "error": str(error)})
        if len(waiting) == BATCH:
            yield from _scored(waiting, model)
            waiting = []
    yield from _scored(waiting, model)


def _scored(questions: list[dict[str, Any]], model: Model) -> list[dict[str, Any]]:
    """Results of several questions in one batch; one by one only if the batch fails."""
    good = [question for question in questions if "error" not in question]
    try:
        scores = iter(_scores(good, model))
    except UserError as error:
        if len(questions) == 1:
            if "line" not in questions[0]:
                raise
            return [{"line": questions[0]["line"], "error": str(error)}]
        return [result for question in questions for result in _scored([question], model)]
    results = []
    for question in questions:
        about = {"line": question["line"]} if "line" in question else {}
        if "error" in question:
            results.append(about | {"error": question["error"]})
            continue
        own = [next(scores) for _ in question["responses"]]
        results.append(about | _result(question["responses"], own))
    return results


def _scores(questions: list[dict[str, Any]], model: Model) -> list[Score]:
    found: dict[int, list[Score]] = {}
    by_way: dict[tuple[str | None, bool], list[int]] = {}
    for place, question in enumerate(questions):
        by_way.setdefault((question["method"], question["group"] is not None), []).append(place)
    for (method, grouped), places in by_way.items():
        prompts: list[Prompt] = []
        responses, contexts, groups = list[str](), list[str | None](), list[str]()
        for place in places:
            question = questions[place]
            many = len(question["responses"])
            prompts += [question["prompt"]] * many
            responses += question["responses"]
            contexts += [question["context"]] * many
            groups += [question["group"]] * many
        scores = iter(
            model.score(
                prompts, responses, contexts, method=method, groups=groups if grouped else None
            )
        )
        for place in places:
            found[place] = [next(scores) for _ in questions[place]["responses"]]
    return [score for place in range(len(questions)) for score in found[place]]


def _result(responses: list[str], scores: list[Score]) -> dict[str, Any]:
    order = sorted(range(len(scores)), key=lambda place: -scores[place].reward)
    ranked = [{"number": n, "response": responses[n], **asdict(scores[n])} for n in order]
    return {"best": order[0], "ranking": ranked}


def _with_defaults(line: Any, asked: ScoreConfig) -> Any:
    if not isinstance(line, dict):
        return line
    defaults: dict[str, Any] = {
        "context": asked.context,
        "method": asked.method,
        "group": asked.group,
    }
    if "response" not in line and "responses" not in line and asked.responses:
        defaults["responses"] = asked.responses
    if asked.prompt is not None:
        defaults["prompt"] = asked.prompt
    return defaults | line


def _parsed(line: Any) -> dict[str, Any]:
    """A question with all of its keys; ``UserError`` for one that cannot be asked."""
    if not isinstance(line, dict):
        raise UserError(f"expected a JSON object, found {type(line).__name__}")
    unknown = sorted(set(line) - KEYS)
    if unknown:
        raise UserError(f"expected the keys {', '.join(sorted(KEYS))}, found {', '.join(unknown)}")
    if "response" in line and "responses" in line:
        raise UserError("expected response or responses, found both")
    responses = [line["response"]] if "response" in line else line.get("responses")
    if not isinstance(responses, list) or not responses:
        raise UserError("expected response, or responses with at least one")
    if "prompt" not in line:
        raise UserError("expected a prompt")
    for name in ("context", "method", "group"):
        if not isinstance(line.get(name), str | None):
            raise UserError(f"{name}: expected text, found {type(line[name]).__name__}")
    question = {name: line.get(name) for name in ("context", "method", "group")}
    return question | {"prompt": line["prompt"], "responses": responses}


def ranking_table(result: dict[str, Any], names: list[str]) -> Any:
    """The ranking of one question as a table: reward, the heads that weigh most, the response."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("", "reward", "heads that weigh most (weight: reward)", "response"):
        table.add_column(name, justify="right" if name == "reward" else "left")
    for place, row in enumerate(result["ranking"], start=1):
        heads = sorted(range(len(row["weights"])), key=lambda k: -row["weights"][k])[:3]
        parts = [
            f"{names[k]} {row['weights'][k]:.2f}: {row['head_rewards'][k]:+.2f}" for k in heads
        ]
        text = " ".join(row["response"].split())
        cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        table.add_row(str(place), f"{row['reward']:+.3f}", Text("\n".join(parts)), Text(cut))
    return table
