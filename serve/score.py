"""``micro-rm score``: rank responses from the command line, or score JSON lines in batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from ..common.errors import ConfigError, UserError
from ..configs.score import ScoreConfig
from .model import Model, Prompt, Score

QUESTION_KEYS = {"prompt", "response", "responses", "context", "method", "group"}
BATCH = 64  # lines that are scored together
SHOWN = 60  # characters of a response in the table


def score_question(model: Model, config: ScoreConfig) -> dict[str, Any]:
    """Rank the responses given on the command line.

    Returns ``best``, the index of the best response, and ``ranking``, one row per response from the
    best to the worst. Raises ``ConfigError`` without a prompt or a response.
    """
    if config.prompt is None or not config.responses:
        raise ConfigError(
            "score: expected --prompt TEXT and --response TEXT (again for more), or a file of JSON "
            'lines such as {"prompt": "...", "responses": ["..."], "context": "..."}, or - for '
            "standard input"
        )
    line = {
        "prompt": config.prompt,
        "responses": config.responses,
        "context": config.context,
        "method": config.method,
        "group": config.group,
    }
    return _score_batch([_parse_question(line)], model)[0]


def score_lines(
    model: Model, lines: Iterable[str], config: ScoreConfig
) -> Iterator[dict[str, Any]]:
    """Score JSON lines in order; yields one result per line that is not blank.

    A line that cannot be scored yields its ``error`` and does not stop the others. Keys that a line
    lacks are taken from the command line.
    """
    batch: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            batch.append(
                _parse_question(_with_defaults(json.loads(line), config)) | {"line": number}
            )
        except (UserError, ValueError, RecursionError) as error:
            batch.append({"line": number, "error": str(error)})
        if len(batch) == BATCH:
            yield from _score_batch(batch, model)
            batch = []
    yield from _score_batch(batch, model)


def _score_batch(questions: list[dict[str, Any]], model: Model) -> list[dict[str, Any]]:
    """Score several questions in one batch, one by one only if the batch fails."""
    valid = [question for question in questions if "error" not in question]
    try:
        scores = iter(_score_all(valid, model))
    except UserError as error:
        if len(questions) == 1:
            if "line" not in questions[0]:
                raise
            return [{"line": questions[0]["line"], "error": str(error)}]
        return [result for question in questions for result in _score_batch([question], model)]
    results = []
    for question in questions:
        header = {"line": question["line"]} if "line" in question else {}
        if "error" in question:
            results.append(header | {"error": question["error"]})
            continue
        own = [next(scores) for _ in question["responses"]]
        results.append(header | _ranking(question["responses"], own))
    return results


def _score_all(questions: list[dict[str, Any]], model: Model) -> list[Score]:
    """Scores of all responses in order, with one model call per method and use of groups."""
    scores_of: dict[int, list[Score]] = {}
    calls: dict[tuple[str | None, bool], list[int]] = {}
    for index, question in enumerate(questions):
        calls.setdefault((question["method"], question["group"] is not None), []).append(index)
    for (method, grouped), indices in calls.items():
        prompts: list[Prompt] = []
        responses, contexts, groups = list[str](), list[str | None](), list[str]()
        for index in indices:
            question = questions[index]
            count = len(question["responses"])
            prompts += [question["prompt"]] * count
            responses += question["responses"]
            contexts += [question["context"]] * count
            groups += [question["group"]] * count
        scores = iter(
            model.score(
                prompts, responses, contexts, method=method, groups=groups if grouped else None
            )
        )
        for index in indices:
            scores_of[index] = [next(scores) for _ in questions[index]["responses"]]
    return [score for index in range(len(questions)) for score in scores_of[index]]


def _ranking(responses: list[str], scores: list[Score]) -> dict[str, Any]:
    order = sorted(range(len(scores)), key=lambda index: -scores[index].reward)
    ranked = [{"number": n, "response": responses[n], **asdict(scores[n])} for n in order]
    return {"best": order[0], "ranking": ranked}


def _with_defaults(line: Any, config: ScoreConfig) -> Any:
    if not isinstance(line, dict):
        return line
    defaults: dict[str, Any] = {
        "context": config.context,
        "method": config.method,
        "group": config.group,
    }
    if "response" not in line and "responses" not in line and config.responses:
        defaults["responses"] = config.responses
    if config.prompt is not None:
        defaults["prompt"] = config.prompt
    return defaults | line


def _parse_question(line: Any) -> dict[str, Any]:
    """Validate a line and fill in the keys that it lacks; raises ``UserError``."""
    if not isinstance(line, dict):
        raise UserError(f"expected a JSON object, found {type(line).__name__}")
    unknown = sorted(set(line) - QUESTION_KEYS)
    if unknown:
        raise UserError(
            f"expected the keys {', '.join(sorted(QUESTION_KEYS))}, found {', '.join(unknown)}"
        )
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
    """Render the ranking of one question: reward, the heads of largest weight, the response."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("", "reward", "heads that weigh most (weight: reward)", "response"):
        table.add_column(name, justify="right" if name == "reward" else "left")
    for rank, row in enumerate(result["ranking"], start=1):
        heads = sorted(range(len(row["weights"])), key=lambda k: -row["weights"][k])[:3]
        parts = [
            f"{names[k]} {row['weights'][k]:.2f}: {row['head_rewards'][k]:+.2f}" for k in heads
        ]
        text = " ".join(row["response"].split())
        cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
        table.add_row(str(rank), f"{row['reward']:+.3f}", Text("\n".join(parts)), Text(cut))
    return table
