"""A run that scores raw text: ``micro_rm.load("runs/x").score(prompts, responses)``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cache.schema import Identity, StoreError
from ..common.errors import UserError
from ..configs.schema import BackboneConfig, EmbedConfig, ViewsConfig
from ..embed.encoder import load_encoder
from ..embed.sequences import conversation_of
from ..embed.sources.pair import ROLES, Message, PreferencePair
from ..heads.scoring import HeadScores, Scorer
from ..runs.files import RECORD
from .names import head_names, read_report
from .texts import TextEncoder

Prompt = str | Sequence[Any]  # text, or messages as dictionaries with role and content
# With a wish the first of these that a run has, without one the first of the others.
WITH_WISH = ("micro", "micro_kernel", "micro_stage1", "static_mixture", "single_bt")
WITHOUT = ("micro_stage1", "static_mixture", "single_bt", "single_bt_exact", "native_head")


@dataclass(frozen=True)
class Score:
    """One response: its reward, what every head gives it, the heads' weights, and by which method.

    Rewards of a method differ by log-odds; their zero means nothing.
    """

    reward: float
    head_rewards: list[float]
    weights: list[float]
    method: str


class Model:
    """The methods of a run with the backbone that its vectors came from.

    ``head_names`` says what every head serves, if the run was evaluated, else its number.
    """

    def __init__(
        self, run: Path, scorer: Scorer, texts: TextEncoder, views: ViewsConfig, *, truncate: bool
    ) -> None:
        self.run = run
        self.scorer = scorer
        self.texts = texts
        self.views = views
        self._equal_prompts = truncate
        self.head_names = self._names()

    def _names(self) -> list[str]:
        """A name for every head, by its number: what it serves, if the run was evaluated."""
        report = read_report(self.run)
        named = [head_names(report, name, count) for name, count in self.scorer.heads().items()]
        # Heads of several methods are the same where one builds on the other.
        known = [names for names in named if names and not names[0].startswith("head_")]
        return max(known or named or [["reward"]], key=len)

    @property
    def methods(self) -> list[str]:
        """Methods that can score."""
        return self.scorer.names

    def score(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        contexts: Sequence[str | None] | None = None,
        *,
        method: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> list[Score]:
        """A score for every response to its prompt, under a wish if there is one.

        ``method`` is by default ``micro`` where a wish is given and ``micro_stage1`` where not.
        ``groups`` names an attribute or user for methods that were adapted to them (their
        ``told`` is group). Raises ``UserError`` for texts, methods and groups that cannot be used.
        """
        pairs = _pairs(prompts, responses, contexts)
        scores: list[Score | None] = [None] * len(pairs)
        for name, places in self._by_method(pairs, method).items():
            some = [pairs[place] for place in places]
            of = None if groups is None else [groups[place] for place in places]
            found = self._heads(name, some, of)
            for row, place in enumerate(places):
                scores[place] = Score(
                    float(found.reward_N[row]),
                    found.rewards_NxK[row].tolist(),
                    found.weights_NxK[row].tolist(),
                    name,
                )
        return [score for score in scores if score is not None]

    def probability(
        self,
        prompts: Sequence[Prompt],
        first: Sequence[str],
        second: Sequence[str],
        contexts: Sequence[str | None] | None = None,
        *,
        method: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> np.ndarray:
        """(N,) probability that the first response is preferred to the second."""
        chosen, rejected = _pairs(prompts, first, contexts), _pairs(prompts, second, contexts)
        out = np.zeros(len(chosen))
        for name, places in self._by_method(chosen, method).items():
            head, router = self._vectors([chosen[place] for place in places])
            other, _ = self._vectors([rejected[place] for place in places])
            of = None if groups is None else [groups[place] for place in places]
            out[places] = self.scorer.probability(name, head, other, router, of)
        return out

    def best_of(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        context: str | None = None,
        *,
        method: str | None = None,
    ) -> list[tuple[int, Score]]:
        """Numbers and scores of several responses to one prompt, the best one first."""
        many = len(responses)
        scores = self.score([prompt] * many, responses, [context] * many, method=method)
        return sorted(enumerate(scores), key=lambda item: -item[1].reward)

    def router_vectors(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """(N, D) vectors of what routers read."""
        return self._vectors(pairs)[1]

    def _by_method(
        self, pairs: Sequence[PreferencePair], method: str | None
    ) -> dict[str, list[int]]:
        by_method: dict[str, list[int]] = {}
        for place, pair in enumerate(pairs):
            name = method or self.default_method(wish=bool(pair.context))
            by_method.setdefault(name, []).append(place)
        return by_method

    def default_method(self, *, wish: bool) -> str:
        """The method that scores if none is named."""
        for name in WITH_WISH if wish else WITHOUT:
            if name in self.methods:
                return name
        raise StoreError(
            f"{self.run}: no method here gives rewards of single responses; train one of "
            f"{', '.join(WITHOUT)}"
        )

    def _heads(
        self, name: str, pairs: Sequence[PreferencePair], groups: Sequence[str] | None
    ) -> HeadScores:
        head, router = self._vectors(pairs)
        return self.scorer.score(name, head, router, groups)

    def _vectors(self, pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of responses and of what routers read, in the views that runs are scored in."""
        views = self.views
        wanted = [
            conversation_of(pair, view, role, views.form, equal_prompts=self._equal_prompts)
            for view, role in ((views.adapt_head, "chosen"), (views.adapt_router, "prompt"))
            for pair in pairs
        ]
        vectors = self.texts.vectors(wanted)
        return vectors[: len(pairs)], vectors[len(pairs) :]


def load(run: str | Path, *, device: str = "auto", room: int = 10_000) -> Model:
    """The model of a run directory, with its backbone.

    ``room`` vectors of texts are remembered. Raises ``StoreError`` if the run is not trained or its
    record is damaged, ``ConfigError`` if the backbone is not at hand or another one.
    """
    run = Path(run)
    record = _read_record(run / RECORD)
    config = record["config"]
    backbone = BackboneConfig(**config["backbone"])
    embed = EmbedConfig(**(config["embed"] | {"device": device, "shards": "0/1"}))
    encoder = load_encoder(backbone, embed)
    differences = Identity(**record["store"]).differences(encoder.identity)
    if differences:
        raise StoreError(f"{run}: the backbone at hand is another one: {'; '.join(differences)}")
    return Model(
        run,
        Scorer.load(run),
        TextEncoder(encoder, room),
        ViewsConfig(**config["views"]),
        truncate=backbone.overlong == "truncate_prompt",
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        needed = [record["config"][name] for name in ("backbone", "views", "embed")]
        if not all(needed) or not record["store"]["weights"]:
            raise ValueError("a section is empty")
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error}); name a run directory") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: no record of a run over text ({error}); name a run that was trained from a "
            "store"
        ) from error
    return record


def _pairs(
    prompts: Sequence[Prompt], responses: Sequence[str], contexts: Sequence[str | None] | None
) -> list[PreferencePair]:
    wishes = [None] * len(responses) if contexts is None else contexts
    if not len(prompts) == len(responses) == len(wishes):
        raise UserError(
            f"expected as many prompts as responses and contexts, found {len(prompts)}, "
            f"{len(responses)} and {len(wishes)}"
        )
    return [
        PreferencePair(
            prompt=messages(prompt),
            chosen=_text(response, "response"),
            rejected="",
            split="test",
            source="score",
            context=None if wish is None else _text(wish, "context") or None,
        )
        for prompt, response, wish in zip(prompts, responses, wishes, strict=True)
    ]


def messages(prompt: Prompt) -> tuple[Message, ...]:
    """A prompt as messages; a text is one user message. Raises ``UserError`` for anything else."""
    if isinstance(prompt, str):
        return (Message("user", _text(prompt, "prompt")),)
    turns = []
    for turn in prompt:
        if isinstance(turn, Message):
            turns.append(turn)
            continue
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            raise UserError("prompt: expected text, or messages with role and content")
        if turn["role"] not in ROLES:
            raise UserError(
                f"prompt: expected a role of {', '.join(ROLES)}, found {turn['role']!r}"
            )
        turns.append(Message(turn["role"], _text(turn["content"], "content")))
    if not any(turn.role == "user" for turn in turns):
        raise UserError("prompt: expected at least one user message")
    return tuple(turns)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name}: expected text, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name}: holds half a character (a lone surrogate)") from error
    return value
