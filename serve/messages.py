"""Request and response bodies of the service; their docstrings are part of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

# Safe in a path, a log line and a file name.
UserName = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._@:+-]+$")
]
FeedbackId = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")
]


class Strict(BaseModel):
    """Base of requests: unknown keys and implicit type conversions are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(Strict):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | Annotated[list[Turn], Field(min_length=1, max_length=1000)]


class RouteQuestion(Strict):
    """Which heads apply to a prompt, given an optional context and person."""

    prompt: Prompt
    context: str | None = None
    user: UserName | None = None
    method: str | None = None
    group: str | None = Field(None, description="For methods that were adapted to groups.")


class ScoreQuestion(RouteQuestion):
    """Responses to one prompt that are to be scored."""

    responses: Annotated[list[str], Field(min_length=1)]


class Route(BaseModel):
    """Head weights on the simplex. ``comparisons`` counts the feedback of the person so far."""

    method: str
    heads: list[str]
    weights: list[float]
    comparisons: int


class ScoredResponse(BaseModel):
    """The weighted reward of a response and the reward of every head."""

    reward: float
    head_rewards: list[float]


class Scores(Route):
    """Results in the order of the request; ``best`` is the index of the highest reward."""

    results: list[ScoredResponse]
    best: int


class RewardQuestion(BaseModel):
    """Request in OpenRLHF's format; its other keys, such as labels, are ignored."""

    model_config = ConfigDict(strict=True)

    query: Annotated[list[str], Field(min_length=1)] = Field(
        description="Prompt and response in one text."
    )
    prompts: list[str] = Field(description="The prompt that each query begins with.")


class Rewards(BaseModel):
    """Response in OpenRLHF's format: every list has one number per query."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class FeedbackQuestion(Strict):
    """A person prefers one response to another. ``id`` is an idempotency key: the same id counts
    once, so that a request whose answer was lost can be sent again."""

    user: UserName
    prompt: Prompt
    chosen: str
    rejected: str
    context: str | None = None
    method: str | None = None
    id: FeedbackId | None = None


class Candidate(Strict):
    """A comparison that the person could be asked: two responses to a prompt."""

    prompt: Prompt
    responses: Annotated[list[str], Field(min_length=2, max_length=2)]


class AskQuestion(Strict):
    """Which of these comparisons is the most informative about a person's taste?"""

    user: UserName
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    context: str | None = None
    method: str | None = None


class Asked(BaseModel):
    """``order``: indices of the candidates, most informative first. ``information``: mutual
    information of each answer and the taste, in nats from 0 to log 2, in the order of the
    request."""

    user: str
    comparisons: int
    order: list[int]
    information: list[float]


class PersonAnswer(BaseModel):
    """Statistics of a person. ``weights`` are those under a uniform router. Losses and regrets are
    cumulative, in nats; the regrets compare with the best head, and with the best head or mixture,
    in hindsight."""

    user: str
    comparisons: int
    weights: list[float]
    losses: list[float]
    served_loss: float
    regret: float
    regret_mixture: float


class FeedbackAnswer(PersonAnswer):
    """The comparison is durable. ``repeated``: its id was known already."""

    id: str
    repeated: bool


class PersonHistory(PersonAnswer):
    """Adds the regrets after every comparison, each in hindsight at that time."""

    regret_curve: list[float]
    regret_mixture_curve: list[float]


class Export(BaseModel):
    """Every record of a person, as stored in the journal."""

    user: str
    records: list[dict[str, Any]]


class RollbackQuestion(Strict):
    """``keep``: number of a person's first comparisons that are kept."""

    keep: Annotated[int, Field(ge=0)]


class Dropped(BaseModel):
    """Number of comparisons that were deleted for good."""

    user: str
    dropped: int


class Health(BaseModel):
    """``status`` is ``ok`` or names what does not work; ``waiting`` counts queued requests."""

    status: str
    methods: list[str]
    waiting: int


class ErrorBody(BaseModel):
    """Why a request was refused, in one sentence."""

    error: str
