"""What the service is asked and what it answers, as its OpenAPI description states it."""

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
    """No unknown keys, no numbers for texts."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(Strict):
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | Annotated[list[Turn], Field(min_length=1, max_length=1000)]


class RouteQuestion(Strict):
    """Which heads answer a prompt, under a wish and for a person if they are given."""

    prompt: Prompt
    context: str | None = None
    user: UserName | None = None
    method: str | None = None
    group: str | None = Field(None, description="For methods that were adapted to groups.")


class ScoreQuestion(RouteQuestion):
    """Responses to one prompt, to be compared."""

    responses: Annotated[list[str], Field(min_length=1)]


class Route(BaseModel):
    """Weights of the heads, on the simplex; ``comparisons`` is how many a person has given."""

    method: str
    heads: list[str]
    weights: list[float]
    comparisons: int


class ScoredResponse(BaseModel):
    """The weighted reward, and what every head gives."""

    reward: float
    head_rewards: list[float]


class Scores(Route):
    """Responses in the order of the question; ``best`` is the number of the best one."""

    results: list[ScoredResponse]
    best: int


class RewardQuestion(BaseModel):
    """OpenRLHF's request. Keys that it sends beside these, such as labels, are ignored."""

    model_config = ConfigDict(strict=True)

    query: Annotated[list[str], Field(min_length=1)] = Field(
        description="Prompt and response in one text."
    )
    prompts: list[str] = Field(description="The prompt that each query begins with.")


class Rewards(BaseModel):
    """OpenRLHF's answer: one number per query in every list."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class FeedbackQuestion(Strict):
    """A person prefers one response to another. The same ``id`` counts once, so that a request
    whose answer was lost can be sent again."""

    user: UserName
    prompt: Prompt
    chosen: str
    rejected: str
    context: str | None = None
    method: str | None = None
    id: FeedbackId | None = None


class Candidate(Strict):
    """A comparison that could be asked: two responses to a prompt."""

    prompt: Prompt
    responses: Annotated[list[str], Field(min_length=2, max_length=2)]


class AskQuestion(Strict):
    """Which of these comparisons would tell most of a person's taste?"""

    user: UserName
    candidates: Annotated[list[Candidate], Field(min_length=1)]
    context: str | None = None
    method: str | None = None


class Asked(BaseModel):
    """``order``: numbers of the candidates, the most telling one first. ``information``: what the
    answer to each would tell, in nats, from 0 to log 2, in the order of the question."""

    user: str
    comparisons: int
    order: list[int]
    information: list[float]


class PersonAnswer(BaseModel):
    """What is kept of a person. ``weights`` are those under a router that has no opinion; the
    regrets are in nats against the best head and the best head or mixture in hindsight."""

    user: str
    comparisons: int
    weights: list[float]
    losses: list[float]
    served_loss: float
    regret: float
    regret_mixture: float


class FeedbackAnswer(PersonAnswer):
    """The comparison is on disk. ``repeated``: it was before."""

    id: str
    repeated: bool


class PersonHistory(PersonAnswer):
    """With the regrets after every comparison, each against the hindsight of that moment."""

    regret_curve: list[float]
    regret_mixture_curve: list[float]


class Export(BaseModel):
    """Every record of a person, as the journal holds it."""

    user: str
    records: list[dict[str, Any]]


class RollbackQuestion(Strict):
    """How many of a person's first comparisons stay."""

    keep: Annotated[int, Field(ge=0)]


class Dropped(BaseModel):
    """How many comparisons were dropped for good."""

    user: str
    dropped: int


class Health(BaseModel):
    """``ok``, or what does not work."""

    status: str
    methods: list[str]
    waiting: int


class Refusal(BaseModel):
    """Why a request was not answered, in one sentence."""

    error: str
