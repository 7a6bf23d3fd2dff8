"""What the service answers, how much of it at once, and what it learns from feedback."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import require

# Marks with which the chat templates of common models end a turn or fill a batch.
END_MARKS = [
    "</s>",
    "<eos>",
    "<pad>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|finetune_right_pad_id|>",
]


@dataclass(frozen=True)
class OnlineConfig:
    """What is learnt from comparisons that people send to /feedback; see docs/serving.md.

    Attributes:
        enabled: Take feedback at all; without it /feedback and /users do not exist.
        dir: Directory of the journal; by default the folder online of the run.
        method: Method whose heads are weighed; by default the one that answers wishes.
        eta: How much a nat of loss counts against a taste; 1 is Bayes' rule.
        rho: How far the router is believed beside a person's feedback: the exponent of its weights.
        single: Probability beforehand that one head alone is a person's, from above 0 to 1; the
            rest goes to mixtures of heads. 1 is the paper's Hedge.
        users: People that are kept, 1 kB of memory for each head; feedback of more is refused.
        router: Let the shared router learn from everybody's feedback, in the background. One
            person's feedback then changes other people's scores, and vectors of prompts are kept.
        router_every: Comparisons between two updates of the router.
    """

    enabled: bool = True
    dir: str | None = None
    method: str | None = None
    eta: float = 1.0
    rho: float = 1.0
    single: float = 0.8
    users: int = 100_000
    router: bool = False
    router_every: int = 50

    def __post_init__(self) -> None:
        require(self.eta > 0, "serve.online.eta", "above 0", self.eta)
        require(self.rho >= 0, "serve.online.rho", "0 or more", self.rho)
        require(0 < self.single <= 1, "serve.online.single", "above 0 and at most 1", self.single)
        for key in ("users", "router_every"):
            require(getattr(self, key) >= 1, f"serve.online.{key}", "1 or more", getattr(self, key))


@dataclass(frozen=True)
class ServeConfig:
    """The HTTP service of a run.

    Attributes:
        host: Address to listen at. Another than the machine's own needs an API key.
        port: Port; 0 takes a free one and prints it.
        key_variable: Environment variable with the API key. If it is set, every request but
            /healthz must carry the key.
        batch_texts: Sequences that the model gets at once at most.
        batch_characters: Characters of them at most; a single larger request goes alone.
        wait_ms: How long the first request of a batch waits for others; while a batch is computed
            others gather anyway.
        queue: Requests that may wait; more are told to come back (503).
        timeout_s: Seconds until a waiting request is given up (504).
        body_bytes: Longest request (413).
        text_characters: Longest single text (422).
        responses: Responses of one request.
        room: Vectors of texts that are remembered.
        end_marks: Marks that /get_reward cuts off the end of a response.
        online: Learning from feedback.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_variable: str = "MICRO_RM_API_KEY"
    batch_texts: int = 64
    batch_characters: int = 200_000
    wait_ms: float = 0.0
    queue: int = 256
    timeout_s: float = 30.0
    body_bytes: int = 1_000_000
    text_characters: int = 50_000
    responses: int = 128
    room: int = 10_000
    end_marks: list[str] = field(default_factory=lambda: list(END_MARKS))
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "serve.port", "from 0 to 65535", self.port)
        require(self.wait_ms >= 0, "serve.wait_ms", "0 or more", self.wait_ms)
        require(self.timeout_s > 0, "serve.timeout_s", "above 0", self.timeout_s)
        require(bool(self.key_variable), "serve.key_variable", "a name", self.key_variable)
        require(all(self.end_marks), "serve.end_marks", "texts that are not empty", self.end_marks)
        for key in (
            *("batch_texts", "batch_characters", "queue", "body_bytes"),
            *("text_characters", "responses", "room"),
        ):
            require(getattr(self, key) >= 1, f"serve.{key}", "1 or more", getattr(self, key))
