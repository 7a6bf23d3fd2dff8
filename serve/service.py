"""The service without HTTP: questions in, answers out, refusals as ``Refused``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..configs.serve import ServeConfig
from . import messages as m
from .batching import Batcher, Busy, Closed, Limits
from .guard import Refused
from .jobs import Job, Scored, Scoring, score_jobs
from .limits import check_sizes, plain_prompt, texts_of
from .metrics import Metrics
from .online.journal import JournalError
from .online.people import Feedback, FullError, Online, regret_curves
from .online.weights import Person, Rule
from .openrlhf import QueryError, response_of

if TYPE_CHECKING:
    from .online.router import RouterLearner

Answer = TypeVar("Answer")
RETRY = {"Retry-After": "1"}


class Service:
    """A model behind a queue, and what people taught it.

    ``online`` weighs the heads of ``online_methods``, which are the same heads under different
    routers; ``learner`` keeps the shared router up to date.
    """

    def __init__(
        self,
        model: Scoring,
        config: ServeConfig,
        online: Online | None = None,
        online_methods: Sequence[str] = (),
        learner: RouterLearner | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.online, self.online_methods = online, tuple(online_methods)
        self.learner = learner
        self.metrics = Metrics()
        self.batcher = Batcher[Job, Scored](
            lambda jobs: score_jobs(model, jobs, None if learner is None else learner.vector),
            Limits(
                config.batch_texts, config.batch_characters, config.wait_ms / 1000, config.queue
            ),
            self._observe,
        )
        if learner is not None and online is not None:
            learner.start(online)
        self.metrics.gauge("waiting", "Requests in the queue.", lambda: self.batcher.waiting)
        if online is not None:
            self.metrics.gauge("people", "People who gave feedback.", lambda: len(online))
            self.metrics.gauge("comparisons", "Comparisons kept.", lambda: online.comparisons)
        if learner is not None:
            self.metrics.gauge("router_updates", "Updates of the router.", lambda: learner.updates)

    def close(self) -> None:
        """Finish what is queued, then write down what was given."""
        self.batcher.close()
        if self.learner is not None:
            self.learner.close()
        if self.online is not None:
            self.online.close()

    async def route(self, asked: m.RouteQuestion) -> m.Route:
        """Weights of the heads for a prompt."""
        scored = await self._scored(asked, [""])
        return self._route(asked, scored)

    async def score(self, asked: m.ScoreQuestion) -> m.Scores:
        """Rewards of responses to one prompt."""
        scored = await self._scored(asked, asked.responses)
        route = self._route(asked, scored)
        weights_K = np.array(route.weights)
        results = [
            m.ScoredResponse(
                reward=float(np.array(score.head_rewards) @ weights_K),
                head_rewards=score.head_rewards,
            )
            for score in scored.scores
        ]
        best = int(np.argmax([result.reward for result in results]))
        return m.Scores(**route.model_dump(), results=results, best=best)

    async def rewards(
        self, asked: m.RewardQuestion, context: str | None, user: str | None, method: str | None
    ) -> m.Rewards:
        """Rewards of queries, in OpenRLHF's form; wish, person and method are of all of them."""
        if len(asked.query) != len(asked.prompts):
            raise Refused(
                422,
                f"prompts: expected as many as queries ({len(asked.query)}), found "
                f"{len(asked.prompts)}",
            )
        pairs = zip(asked.query, asked.prompts, strict=True)
        try:
            responses = [
                response_of(query, prompt, number, self.config.end_marks)
                for number, (query, prompt) in enumerate(pairs)
            ]
        except QueryError as error:
            raise Refused(422, str(error)) from error
        name = self._method(method, context, user)
        check_sizes(self.config, [*asked.query, *asked.prompts, context or ""], len(responses))
        wishes = [context] * len(responses)
        job = Job(list(asked.prompts), responses, wishes, name)
        scores = (await self._wait(self._submit(job))).scores
        weights_NxK = self._weights(np.array([score.weights for score in scores]), user)
        reward_NxK = np.array([score.head_rewards for score in scores])
        rewards = (weights_NxK * reward_NxK).sum(axis=1).tolist()
        logs = {
            "largest_weight": weights_NxK.max(axis=1).tolist(),
            "head_disagreement": reward_NxK.std(axis=1).tolist(),
        }
        return m.Rewards(rewards=rewards, scores=rewards, extra_logs=logs)

    async def feedback(self, asked: m.FeedbackQuestion) -> m.FeedbackAnswer:
        """Learn a comparison. What was accepted survives; nothing else is acknowledged."""
        online = self.people
        if asked.chosen == asked.rejected:
            raise Refused(422, "rejected: expected another text than chosen")
        question = m.RouteQuestion(**asked.model_dump(include={"prompt", "context", "method"}))
        question.user = asked.user
        responses = [asked.chosen, asked.rejected]
        scored = await self._scored(question, responses, vector=self.learner is not None)
        chosen, rejected = (np.array(score.head_rewards) for score in scored.scores)
        given = Feedback(
            asked.user,
            scored.scores[0].method,
            chosen - rejected,
            _log(np.array(scored.scores[0].weights)),
            asked.id,
            scored.vector_D,
        )
        receipt = await self._wait(online.give(given))
        return m.FeedbackAnswer(
            **_person(asked.user, receipt.person, online.rule).model_dump(),
            id=receipt.id,
            repeated=receipt.repeated,
        )

    async def ask(self, asked: m.AskQuestion) -> m.Asked:
        """How much every candidate's answer would tell of a person's taste."""
        online = self.people
        name = self._method(asked.method, asked.context, asked.user)
        prompts = [plain_prompt(one.prompt) for one in asked.candidates for _ in one.responses]
        responses = [text for one in asked.candidates for text in one.responses]
        texts = [text for one in asked.candidates for text in texts_of(one.prompt)]
        check_sizes(self.config, [*texts, *responses, asked.context or ""], len(responses))
        job = Job(prompts, responses, [asked.context] * len(responses), name)
        scores = (await self._wait(self._submit(job))).scores
        reward_NxK = np.array([score.head_rewards for score in scores])
        person = online.person(asked.user)
        information_N = online.rule.information(person, reward_NxK[::2] - reward_NxK[1::2])
        return m.Asked(
            user=asked.user,
            comparisons=person.count,
            order=np.argsort(-information_N, kind="stable").tolist(),
            information=information_N.tolist(),
        )

    @property
    def people(self) -> Online:
        """What people taught; refused where nothing is learnt."""
        if self.online is None:
            raise Refused(404, "feedback is not taken here (serve.online.enabled is false)")
        return self.online

    async def history(self, user: str) -> m.PersonHistory:
        """What is kept of a person, with the regret over time."""
        records = await self._records(user)
        answer = _person(user, self.people.person(user), self.people.rule)
        curves = regret_curves(records, self.people.heads)
        return m.PersonHistory(
            **answer.model_dump(), regret_curve=curves.head, regret_mixture_curve=curves.mixture
        )

    async def export(self, user: str) -> m.Export:
        """Everything that is kept of a person."""
        return m.Export(user=user, records=await self._records(user))

    async def drop(self, user: str, keep: int) -> m.Dropped:
        """Forget all but a person's first comparisons."""
        await self._records(user)
        future = self.people.rollback(user, keep)
        return m.Dropped(user=user, dropped=await self._wait(future))

    async def _records(self, user: str) -> list[dict[str, Any]]:
        if not self.people.person(user).count:
            raise Refused(404, "user: nothing is known of this person")
        return await asyncio.to_thread(self.people.records, user)

    async def _scored(
        self, asked: m.RouteQuestion, responses: list[str], *, vector: bool = False
    ) -> Scored:
        method = self._method(asked.method, asked.context, asked.user)
        prompt, many = plain_prompt(asked.prompt), len(responses)
        texts = [*texts_of(asked.prompt), *responses, asked.context or "", asked.group or ""]
        check_sizes(self.config, texts, many)
        job = Job([prompt] * many, responses, [asked.context] * many, method, asked.group, vector)
        return await self._wait(self._submit(job))

    def _method(self, method: str | None, context: str | None, user: str | None) -> str:
        if method is not None and method not in self.model.methods:
            raise Refused(422, f"method: expected one of {', '.join(self.model.methods)}")
        name = method or self.model.default_method(wish=bool(context))
        if user is not None:
            self.people  # noqa: B018
            if name not in self.online_methods:
                raise Refused(
                    422,
                    f"user: a person's weights are of the heads of {', '.join(self.online_methods)}"
                    f", not of {name}; leave user out, or ask one of these",
                )
        return name

    def _submit(self, job: Job) -> Future[Scored]:
        try:
            return self.batcher.submit(job, texts=len(job.responses), characters=job.characters)
        except Busy:
            raise Refused(503, "too many requests are waiting; come back later", RETRY) from None
        except Closed:
            raise Refused(503, "the service is stopping", RETRY) from None

    async def _wait(self, future: Future[Answer]) -> Answer:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.config.timeout_s)
        except TimeoutError:
            raise Refused(
                504,
                f"no answer within {self.config.timeout_s:g} s; feedback may have been taken, send "
                "it again with the same id",
            ) from None
        except FullError as error:
            raise Refused(507, str(error)) from error
        except JournalError as error:
            raise Refused(503, "feedback cannot be written now; the log says why") from error

    def _route(self, asked: m.RouteQuestion, scored: Scored) -> m.Route:
        # All rows have the same prompt and wish, so the router gave them the same weights.
        first = scored.scores[0]
        (weights_K,) = self._weights(np.array([first.weights]), asked.user)
        count = 0 if asked.user is None else self.people.person(asked.user).count
        return m.Route(
            method=first.method,
            heads=self.model.head_names[: weights_K.size],
            weights=weights_K.tolist(),
            comparisons=count,
        )

    def _weights(self, weights_NxK: np.ndarray, user: str | None) -> np.ndarray:
        """The router's weights, times what the person's feedback makes of the heads."""
        person = None if user is None else self.people.person(user)
        if person is None or not person.count:
            return weights_NxK
        return np.exp(self.people.rule.log_weights(_log(weights_NxK), person))

    def _observe(self, requests: int, texts: int) -> None:
        self.metrics.batch.observe(requests)
        self.metrics.texts.inc(texts)


def _log(weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(weights)


def _person(user: str, person: Person, rule: Rule) -> m.PersonAnswer:
    heads = person.losses_K.size
    weights_K = np.exp(rule.log_weights(np.full(heads, -np.log(heads)), person))
    return m.PersonAnswer(
        user=user,
        comparisons=person.count,
        weights=weights_K.tolist(),
        losses=person.losses_K.tolist(),
        served_loss=person.served,
        regret=person.regret,
        regret_mixture=person.regret_mixture,
    )
