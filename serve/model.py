"""A trained run as a reward model of raw text: ``micro_rm.load("runs/x").score(...)``."""

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
from ..heads.methods import default_methods
from ..heads.scoring import HeadScores, Scorer
from ..run_dir.files import RECORD
from .names import head_names, read_report
from .texts import TextEncoder

Prompt = str | Sequence[Any]  # text, or messages as dictionaries with role and content


@dataclass(frozen=True)
class Score:
    """Score of one response.

    Differences between rewards of one method for the same prompt are log-odds of preference; their
    zero has no meaning.

    Attributes:
        reward: Weighted reward.
        head_rewards: Reward of each of the K heads.
        weights: Weights of the heads, on the simplex.
        method: Method that gave the score.
    """

    reward: float
    head_rewards: list[float]
    weights: list[float]
    method: str


class Model:
    """The trained methods of a run together with its backbone; see ``load``.

    ``head_names`` names each head after the attribute that it predicts best, or by its index if the
    run was not evaluated.
    """

    def __init__(
        self, run: Path, scorer: Scorer, texts: TextEncoder, views: ViewsConfig, *, truncate: bool
    ) -> None:
        self.run = run
        self.scorer = scorer
        self.texts = texts
        self.views = views
        self._equal_prompts = truncate
        self.head_names: list[str] = self._names()

    def _names(self) -> list[str]:
        """Names of the heads, from the method with the most heads that have names."""
        report = read_report(self.run)
        named = [head_names(report, name, count) for name, count in self.scorer.heads().items()]
        # Methods that build on each other share their heads, so one list serves all.
        known = [names for names in named if names and not names[0].startswith("head_")]
        return max(known or named or [["reward"]], key=len)

    @property
    def methods(self) -> list[str]:
        """Names of the methods that can score single responses."""
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
        """Score N responses, each to its own prompt.

        Args:
            prompts: N texts, or N lists of messages with ``role`` and ``content``.
            responses: N texts.
            contexts: Context of each of N prompts, None or empty where there is none.
            method: Name of the method; by default ``micro`` for responses with a context and
                ``micro_stage1`` for those without, as far as the run has them.
            groups: N attributes or users, for methods that were adapted to groups.

        Returns:
            N scores in the order of the responses.

        Raises ``UserError`` for texts, methods and groups that cannot be used.
        """
        pairs = _pairs(prompts, responses, contexts)
        scores: list[Score | None] = [None] * len(pairs)
        for name, indices in self._by_method(pairs, method).items():
            batch = [pairs[index] for index in indices]
            batch_groups = None if groups is None else [groups[index] for index in indices]
            result = self._heads(name, batch, batch_groups)
            for row, index in enumerate(indices):
                scores[index] = Score(
                    float(result.reward_N[row]),
                    result.rewards_NxK[row].tolist(),
                    result.weights_NxK[row].tolist(),
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
        """(N,) probabilities that the first response is preferred to the second.

        Arguments and errors are those of ``score``.
        """
        chosen, rejected = _pairs(prompts, first, contexts), _pairs(prompts, second, contexts)
        probability_N = np.zeros(len(chosen))
        for name, indices in self._by_method(chosen, method).items():
            first_NxD, router_NxD = self._vectors([chosen[index] for index in indices])
            second_NxD, _ = self._vectors([rejected[index] for index in indices])
            batch_groups = None if groups is None else [groups[index] for index in indices]
            probability_N[indices] = self.scorer.probability(
                name, first_NxD, second_NxD, router_NxD, batch_groups
            )
        return probability_N

    def best_of(
        self,
        prompt: Prompt,
        responses: Sequence[str],
        context: str | None = None,
        *,
        method: str | None = None,
    ) -> list[tuple[int, Score]]:
        """Rank responses to one prompt: (index, score) pairs, highest reward first."""
        count = len(responses)
        scores = self.score([prompt] * count, responses, [context] * count, method=method)
        return sorted(enumerate(scores), key=lambda item: -item[1].reward)

    def router_vectors(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """(N, D) inputs of the router, one per pair."""
        return self._vectors(pairs)[1]

    def _by_method(
        self, pairs: Sequence[PreferencePair], method: str | None
    ) -> dict[str, list[int]]:
        by_method: dict[str, list[int]] = {}
        for index, pair in enumerate(pairs):
            name = method or self.default_method(has_context=bool(pair.context))
            by_method.setdefault(name, []).append(index)
        return by_method

    def default_method(self, *, has_context: bool) -> str:
        """Name of the method that scores by default, with or without a context."""
        for name in default_methods("context" if has_context else "prompt"):
            if name in self.methods:
                return name
        raise StoreError(
            f"{self.run}: no method here gives rewards of single responses; train one of "
            f"{', '.join(default_methods('prompt'))}"
        )

    def _heads(
        self, name: str, pairs: Sequence[PreferencePair], groups: Sequence[str] | None
    ) -> HeadScores:
        head_NxD, router_NxD = self._vectors(pairs)
        return self.scorer.score(name, head_NxD, router_NxD, groups)

    def _vectors(self, pairs: Sequence[PreferencePair]) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) vectors of the responses and of the router's inputs, in the views of the run."""
        views = self.views
        conversations = [
            conversation_of(pair, view, role, views.form, equal_prompts=self._equal_prompts)
            for view, role in ((views.adapt_head, "chosen"), (views.adapt_router, "prompt"))
            for pair in pairs
        ]
        vectors = self.texts.vectors(conversations)
        return vectors[: len(pairs)], vectors[len(pairs) :]


def load(run: str | Path, *, device: str = "auto", cached_texts: int = 10_000) -> Model:
    """Load a trained run with its backbone.

    Args:
        run: Run directory.
        device: Device of the backbone, ``auto``, ``cpu`` or ``cuda``.
        cached_texts: Number of text vectors that are remembered.

    Raises ``StoreError`` if the run is not trained, its record is damaged, or the backbone differs
    from the one it was trained with; ``ConfigError`` if the backbone is not available.
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
        TextEncoder(encoder, cached_texts),
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
    contexts = [None] * len(responses) if contexts is None else contexts
    if not len(prompts) == len(responses) == len(contexts):
        raise UserError(
            f"expected as many prompts as responses and contexts, found {len(prompts)}, "
            f"{len(responses)} and {len(contexts)}"
        )
    return [
        PreferencePair(
            prompt=messages(prompt),
            chosen=_text(response, "response"),
            rejected="",
            split="test",
            source="score",
            context=None if context is None else _text(context, "context") or None,
        )
        for prompt, response, context in zip(prompts, responses, contexts, strict=True)
    ]


def messages(prompt: Prompt) -> tuple[Message, ...]:
    """Convert a prompt to messages; a text becomes a single user message.

    Raises ``UserError`` for anything that is neither text nor messages with a user turn.
    """
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
