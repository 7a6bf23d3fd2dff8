"""HTTP routes of the service and their OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from ..common.errors import UserError
from ..common.version import __version__
from ..display.online import regret_svg
from . import messages as m
from .guard import Guard, Refused
from .service import Service

UserPath = Annotated[m.UserName, Path(description="The name that the feedback came under.")]
STATUSES = {
    400: "The body is not what its headers say.",
    401: "The API key is missing or wrong.",
    403: "Without an API key only names of this machine are answered.",
    404: "Nothing is known of this person, or feedback is not taken.",
    408: "The body did not arrive in time.",
    413: "The request, a text or the number of responses is too large.",
    422: "The question cannot be answered as it stands.",
    500: "The service failed.",
    503: "Too many requests are waiting, or the service stops; come back later.",
    504: "No answer in time.",
    507: "No more people may be kept.",
}
ERROR_BODY = {"model": m.ErrorBody}


def make_app(service: Service, key: str | None = None) -> FastAPI:
    """Build the ASGI application, which closes the service on shutdown.

    ``key`` is the API key that requests must carry; None accepts local host names only.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="micro-rm",
        version=__version__,
        description="Rewards of responses, for different people and contexts. See docs/serving.md.",
        lifespan=lifespan,
        docs_url=None,  # the documentation pages load scripts from other hosts
        redoc_url=None,
        responses={status: ERROR_BODY | {"description": text} for status, text in STATUSES.items()},
        dependencies=[]
        if key is None
        else [
            Security(HTTPBearer(auto_error=False)),
            Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
        ],
    )
    metrics = service.metrics

    def observe(path: str, status: int, seconds: float) -> None:
        metrics.requests.labels(path, str(status)).inc()
        metrics.seconds.labels(path).observe(seconds)

    app.add_middleware(
        Guard,
        key=key,
        body_bytes=service.config.body_bytes,
        timeout_s=service.config.timeout_s,
        observe=observe,
    )
    _handle_errors(app)
    _add_scoring(app, service)
    if service.online is not None:
        _add_people(app, service)
    return app


def _handle_errors(app: FastAPI) -> None:
    """Answer every error with its status and a single sentence."""

    def error_response(
        status: int, text: str, headers: dict[str, str] | None = None
    ) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return error_response(error.status, error.error, error.headers)

    @app.exception_handler(UserError)
    async def user_error(_request: Request, error: Exception) -> JSONResponse:
        return error_response(422, str(error))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # The rejected input is left out: clients log error responses.
        problems = [
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors()[:5]
        ]
        return error_response(422, "; ".join(problems))


def _add_scoring(app: FastAPI, service: Service) -> None:
    @app.post("/score")
    async def score(question: m.ScoreQuestion) -> m.Scores:
        """Score several responses to one prompt and name the best."""
        return await service.score(question)

    @app.post("/route")
    async def route(question: m.RouteQuestion) -> m.Route:
        """Return the head weights for a prompt, context and person."""
        return await service.route(question)

    @app.post("/get_reward")
    async def get_reward(
        question: m.RewardQuestion,
        context: str | None = None,
        user: m.UserName | None = None,
        method: str | None = None,
    ) -> m.Rewards:
        """Score in the format of OpenRLHF's remote reward models.

        OpenRLHF sends texts only: context, person and method are query parameters of the URL.
        """
        return await service.rewards(question, context, user, method)

    @app.get("/healthz")
    async def healthz() -> m.Health:
        """Report whether requests are answered; needs no key."""
        if not service.batcher.alive:
            raise Refused(503, "the service is stopping")
        broken = service.online is not None and service.online.journal.broken
        return m.Health(
            status="feedback cannot be written" if broken else "ok",
            methods=service.model.methods,
            waiting=service.batcher.waiting,
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Any:
        """Return counters and latencies in Prometheus' text format."""
        return PlainTextResponse(service.metrics.text())


def _add_people(app: FastAPI, service: Service) -> None:
    @app.post("/feedback")
    async def feedback(question: m.FeedbackQuestion) -> m.FeedbackAnswer:
        """Record that a person prefers one response; it is durable once answered."""
        return await service.feedback(question)

    @app.post("/ask")
    async def ask(question: m.AskQuestion) -> m.Asked:
        """Rank comparisons by how informative a person's answer would be."""
        return await service.ask(question)

    @app.get("/users/{user}")
    async def show(user: UserPath) -> m.PersonHistory:
        """Return a person's weights, losses and regret."""
        return await service.history(user)

    @app.get("/users/{user}/regret.svg", response_class=Response)
    async def regret(user: UserPath) -> Response:
        """Plot a person's regret over their comparisons as SVG."""
        history = await service.history(user)
        svg = regret_svg(history.regret_curve, history.regret_mixture_curve)
        return Response(svg, media_type="image/svg+xml")

    @app.get("/users/{user}/export")
    async def export(user: UserPath) -> m.Export:
        """Return every stored record of a person."""
        return await service.export(user)

    @app.post("/users/{user}/rollback")
    async def rollback(user: UserPath, question: m.RollbackQuestion) -> m.Dropped:
        """Delete all but a person's first comparisons."""
        return await service.drop(user, question.keep)

    @app.delete("/users/{user}")
    async def delete(user: UserPath) -> m.Dropped:
        """Delete a person."""
        return await service.drop(user, 0)
