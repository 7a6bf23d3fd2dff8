"""The service behind the HTTP routes: requests in, responses out, errors as ``Refused``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..configs.serve import ServeConfig
from . import messages as m
from .batching import Batcher, BatchLimits, Busy, Closed
from .guard import Refused
from .jobs import Job, JobScores, ScoringModel, score_jobs
from .limits import check_sizes, model_prompt, prompt_texts
from .metrics import Metrics
from .online.journal import JournalError
from .online.people import Feedback, FeedbackStore, FullError, regret_curves
from .online.weights import HedgeRule, Person
from .openrlhf import QueryError, split_response

if TYPE_CHECKING:
    from .online.router import RouterLearner

Answer = TypeVar("Answer")
RETRY_HEADERS = {"Retry-After": "1"}


class Service:
    """A model behind a batching queue, personalized by people's feedback.

    Args:
        model: The model; only the batcher's thread calls it.
        config: Limits and batching.
        online: Store of feedback; without it no feedback is taken.
        online_methods: Methods that share the heads to which the feedback refers, under routers of
            their own.
        learner: Keeps the shared router fitted to the feedback; None leaves it as trained.
    """

    def __init__(
        self,
        model: ScoringModel,
        config: ServeConfig,
        online: FeedbackStore | None = None,
        online_methods: Sequence[str] = (),
        learner: RouterLearner | None = None,
    ) -> None:
        self.model, self.config = model, config
        self.online, self.online_methods = online, tuple(online_methods)
        self.learner = learner
        self.metrics = Metrics()
        self.batcher = Batcher[Job, JobScores](
            lambda jobs: score_jobs(
                model, jobs, None if learner is None else learner.router_vector
            ),
            BatchLimits(
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
        """Compute the queued requests, then commit the queued feedback."""
        self.batcher.close()
        if self.learner is not None:
            self.learner.close()
        if self.online is not None:
            self.online.close()

    async def route(self, question: m.RouteQuestion) -> m.Route:
        """Head weights for a prompt, context and person."""
        result = await self._score(question, [""])
        return self._route(question, result)

    async def score(self, question: m.ScoreQuestion) -> m.Scores:
        """Rewards of several responses to one prompt."""
        result = await self._score(question, question.responses)
        route = self._route(question, result)
        weights_K = np.array(route.weights)
        results = [
            m.ScoredResponse(
                reward=float(np.array(score.head_rewards) @ weights_K),
                head_rewards=score.head_rewards,
            )
            for score in result.scores
        ]
        best = int(np.argmax([result.reward for result in results]))
        return m.Scores(**route.model_dump(), results=results, best=best)

    async def rewards(
        self, question: m.RewardQuestion, context: str | None, user: str | None, method: str | None
    ) -> m.Rewards:
        """Rewards in OpenRLHF's format; context, person and method hold for every query."""
        if len(question.query) != len(question.prompts):
            raise Refused(
                422,
                f"prompts: expected as many as queries ({len(question.query)}), found "
                f"{len(question.prompts)}",
            )
        pairs = zip(question.query, question.prompts, strict=True)
        try:
            responses = [
                split_response(query, prompt, index, self.config.end_marks)
                for index, (query, prompt) in enumerate(pairs)
            ]
        except QueryError as error:
            raise Refused(422, str(error)) from error
        name = self._method(method, context, user)
        check_sizes(
            self.config, [*question.query, *question.prompts, context or ""], len(responses)
        )
        contexts = [context] * len(responses)
        job = Job(list(question.prompts), responses, contexts, name)
        scores = (await self._wait(self._submit(job))).scores
        weights_NxK = self._weights(np.array([score.weights for score in scores]), user)
        reward_NxK = np.array([score.head_rewards for score in scores])
        rewards = (weights_NxK * reward_NxK).sum(axis=1).tolist()
        logs = {
            "largest_weight": weights_NxK.max(axis=1).tolist(),
            "head_disagreement": reward_NxK.std(axis=1).tolist(),
        }
        return m.Rewards(rewards=rewards, scores=rewards, extra_logs=logs)

    async def feedback(self, question: m.FeedbackQuestion) -> m.FeedbackAnswer:
        """Learn from a comparison; it is durable before it is acknowledged."""
        online = self.people
        if question.chosen == question.rejected:
            raise Refused(422, "rejected: expected another text than chosen")
        route = m.RouteQuestion(**question.model_dump(include={"prompt", "context", "method"}))
        route.user = question.user
        responses = [question.chosen, question.rejected]
        result = await self._score(route, responses, wants_vector=self.learner is not None)
        chosen, rejected = (np.array(score.head_rewards) for score in result.scores)
        feedback = Feedback(
            question.user,
            result.scores[0].method,
            chosen - rejected,
            _safe_log(np.array(result.scores[0].weights)),
            question.id,
            result.vector_D,
        )
        receipt = await self._wait(online.add(feedback))
        return m.FeedbackAnswer(
            **_person_answer(question.user, receipt.person, online.rule).model_dump(),
            id=receipt.id,
            repeated=receipt.repeated,
        )

    async def ask(self, question: m.AskQuestion) -> m.Asked:
        """Rank candidate comparisons by the information that a person's answer would give."""
        online = self.people
        name = self._method(question.method, question.context, question.user)
        prompts = [
            model_prompt(item.prompt) for item in question.candidates for _ in item.responses
        ]
        responses = [text for item in question.candidates for text in item.responses]
        texts = [text for item in question.candidates for text in prompt_texts(item.prompt)]
        check_sizes(self.config, [*texts, *responses, question.context or ""], len(responses))
        job = Job(prompts, responses, [question.context] * len(responses), name)
        scores = (await self._wait(self._submit(job))).scores
        # Rows 2i and 2i + 1 are the two responses of candidate i.
        reward_NxK = np.array([score.head_rewards for score in scores])
        person = online.person(question.user)
        information_N = online.rule.information(person, reward_NxK[::2] - reward_NxK[1::2])
        return m.Asked(
            user=question.user,
            comparisons=person.count,
            order=np.argsort(-information_N, kind="stable").tolist(),
            information=information_N.tolist(),
        )

    @property
    def people(self) -> FeedbackStore:
        """The store of feedback. Raises ``Refused`` if feedback is disabled."""
        if self.online is None:
            raise Refused(404, "feedback is not taken here (serve.online.enabled is false)")
        return self.online

    async def history(self, user: str) -> m.PersonHistory:
        """A person's statistics and their regret after every comparison."""
        records = await self._records(user)
        answer = _person_answer(user, self.people.person(user), self.people.rule)
        curves = regret_curves(records, self.people.heads)
        return m.PersonHistory(
            **answer.model_dump(), regret_curve=curves.head, regret_mixture_curve=curves.mixture
        )

    async def export(self, user: str) -> m.Export:
        """Every stored record of a person."""
        return m.Export(user=user, records=await self._records(user))

    async def drop(self, user: str, keep: int) -> m.Dropped:
        """Delete all but a person's first ``keep`` comparisons."""
        await self._records(user)
        future = self.people.rollback(user, keep)
        return m.Dropped(user=user, dropped=await self._wait(future))

    async def _records(self, user: str) -> list[dict[str, Any]]:
        if not self.people.person(user).count:
            raise Refused(404, "user: nothing is known of this person")
        return await asyncio.to_thread(self.people.records, user)

    async def _score(
        self, question: m.RouteQuestion, responses: list[str], *, wants_vector: bool = False
    ) -> JobScores:
        """Score responses to the prompt of a question as one job."""
        method = self._method(question.method, question.context, question.user)
        prompt, count = model_prompt(question.prompt), len(responses)
        texts = [
            *prompt_texts(question.prompt),
            *responses,
            question.context or "",
            question.group or "",
        ]
        check_sizes(self.config, texts, count)
        contexts = [question.context] * count
        job = Job([prompt] * count, responses, contexts, method, question.group, wants_vector)
        return await self._wait(self._submit(job))

    def _method(self, method: str | None, context: str | None, user: str | None) -> str:
        """Resolve the method of a request and check that it can be used for ``user``."""
        if method is not None and method not in self.model.methods:
            raise Refused(422, f"method: expected one of {', '.join(self.model.methods)}")
        name = method or self.model.default_method(has_context=bool(context))
        if user is not None:
            self.people  # noqa: B018  (raises if feedback is disabled)
            if name not in self.online_methods:
                raise Refused(
                    422,
                    f"user: a person's weights are of the heads of {', '.join(self.online_methods)}"
                    f", not of {name}; leave user out, or ask one of these",
                )
        return name

    def _submit(self, job: Job) -> Future[JobScores]:
        try:
            return self.batcher.submit(job, texts=len(job.responses), characters=job.characters)
        except Busy:
            raise Refused(
                503, "too many requests are waiting; come back later", RETRY_HEADERS
            ) from None
        except Closed:
            raise Refused(503, "the service is stopping", RETRY_HEADERS) from None

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

    def _route(self, question: m.RouteQuestion, result: JobScores) -> m.Route:
        # All responses share the prompt and context, hence the router's weights.
        first = result.scores[0]
        (weights_K,) = self._weights(np.array([first.weights]), question.user)
        count = 0 if question.user is None else self.people.person(question.user).count
        return m.Route(
            method=first.method,
            heads=self.model.head_names[: weights_K.size],
            weights=weights_K.tolist(),
            comparisons=count,
        )

    def _weights(self, weights_NxK: np.ndarray, user: str | None) -> np.ndarray:
        """Update the router's (N, K) weights by the person's feedback, if there is any."""
        person = None if user is None else self.people.person(user)
        if person is None or not person.count:
            return weights_NxK
        return np.exp(self.people.rule.log_weights(_safe_log(weights_NxK), person))

    def _observe(self, requests: int, texts: int) -> None:
        self.metrics.batch.observe(requests)
        self.metrics.texts.inc(texts)


def _safe_log(weights: np.ndarray) -> np.ndarray:
    """Log weights, -inf for a head that the router excludes."""
    with np.errstate(divide="ignore"):
        return np.log(weights)


def _person_answer(user: str, person: Person, rule: HedgeRule) -> m.PersonAnswer:
    """Statistics of a person, with their weights under a uniform router."""
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
