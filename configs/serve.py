"""Settings of the HTTP service: limits of requests, batching, and learning from feedback."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..common.errors import require

# End-of-turn and padding tokens of the chat templates of common models.
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
    """Online learning from comparisons that users send to /feedback; see docs/serving.md.

    Attributes:
        enabled: Accept feedback; if false, /feedback and /users do not exist.
        dir: Directory of the journal; by default online in the directory of the run.
        method: Method whose heads are reweighted; by default the one that scores contexts.
        eta: Learning rate of the weights, per nat of loss; 1 is Bayes' rule.
        rho: Exponent of the router's weights beside a user's feedback; 0 ignores the router.
        single: Prior probability that a single head fits a user, above 0 and at most 1; the rest is
            for mixtures of heads. 1 is the paper's Hedge.
        users: Largest number of users, 1 kB of memory each per head; feedback of further users is
            refused.
        router: Update the shared router from the feedback of all users, in the background. Feedback
            of one user then changes the scores of others, and prompt vectors are kept.
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
    """The HTTP service of a trained run.

    Attributes:
        host: Address to listen on. Any but a loopback address needs an API key.
        port: Port; 0 takes a free one and prints it.
        key_variable: Environment variable with the API key. If it is set, every request but
            /healthz must carry the key.
        batch_texts: Largest number of sequences in a batch.
        batch_characters: Largest number of characters in a batch; a larger request is a batch of
            its own.
        wait_ms: Milliseconds that the first request of a batch waits for others; requests also
            gather while the previous batch is computed.
        queue: Largest number of waiting requests; further ones are refused with status 503.
        timeout_s: Seconds until a waiting request is given up with status 504.
        body_bytes: Largest request body in bytes, else status 413.
        text_characters: Longest single text in characters, else status 422.
        responses: Largest number of responses per request.
        cached_texts: Number of text vectors that are remembered.
        end_marks: Tokens that /get_reward strips from the end of a response.
        online: Online learning from feedback.
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
    cached_texts: int = 10_000
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
            *("text_characters", "responses", "cached_texts"),
        ):
            require(getattr(self, key) >= 1, f"serve.{key}", "1 or more", getattr(self, key))
