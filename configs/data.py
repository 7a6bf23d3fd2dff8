"""Where preference pairs come from: local files, a published data set, several of them, or none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require
from .simulator import SimulatorConfig

JSONL_SOURCE, UNION_SOURCE = "jsonl", "union"
SYNTHETIC_SOURCE, SIMULATOR_SOURCE = "synthetic", "simulator"


@dataclass(frozen=True)
class ColumnsConfig:
    """Names of the columns that the ``jsonl`` source reads; absent optional columns are fine.

    Attributes:
        prompt: Text or a list of messages; may be absent when chosen and rejected are whole
            conversations.
        chosen: Preferred response: text, messages or a whole conversation.
        rejected: The other response, in the same shape.
        response: Response of a ratings row.
        attribute: Criterion under which chosen won.
        context: The wish in words.
        user: The rater.
        split: train or test, used when no separate test file is given.
        margin: Rating difference.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    response: str = "response"
    attribute: str = "attribute"
    context: str = "context"
    user: str = "user"
    split: str = "split"
    margin: str = "margin"


@dataclass(frozen=True)
class SyntheticConfig:
    """The seeded population of raters with opposed tastes that the demo uses.

    Attributes:
        seed: Seed of the population and its text.
        prompts: Number of distinct prompts.
        noise: Probability that a rater errs.
    """

    seed: int = 0
    prompts: int = 320
    noise: float = 0.0

    def __post_init__(self) -> None:
        require(self.prompts >= 12, "data.synthetic.prompts", "12 or more", self.prompts)
        require(0 <= self.noise <= 0.5, "data.synthetic.noise", "between 0 and 0.5", self.noise)


@dataclass(frozen=True)
class PartConfig:
    """One data set of a union; the keys are those of ``data``.

    Attributes:
        source: Registered source, not union itself.
        use: Its training rows, its test rows, or both; adapt takes training rows for stage 2 only.
        train: Training file of the jsonl source.
        test: Test file of the jsonl source.
        dir: Directory with local copies of a published data set.
        revision: Commit, tag or branch of a published data set.
        variant: Version of a published data set.
        draw: Number of a random choice of rows.
        limit: At most so many rows of each file.
        contexts: Wishes for its attributes.
        attributes: Attributes to use.
    """

    source: str
    use: Literal["train", "test", "both", "adapt"] = "both"
    train: str | None = None
    test: str | None = None
    dir: str | None = None
    revision: str | None = None
    variant: str | None = None
    draw: int = 0
    limit: int | None = None
    contexts: str | None = None
    attributes: list[str] | None = None


@dataclass(frozen=True)
class DataConfig:
    """Where preference pairs come from.

    Attributes:
        name: Name of the data set in reports and of its pair table in the store.
        source: Registered source: jsonl (local files), a published data set by its name (docs/
            data.md lists them), union of several, synthetic (text) or simulator (vectors).
        train: Training file: .jsonl or .parquet, .gz allowed.
        test: Test file; without it rows are split by their split column or by prompt.
        contexts: JSON file {attribute: {"train": [wishes], "test": [other wishes]}}, where a list
            or a single text per attribute serves both splits; or table6, reward_bench, or none.
            Published data sets bring their own by default.
        dir: Directory with local copies of a published data set in the schema of the hub, which
            is then not asked; docs/data.md names the files.
        revision: Commit, tag or branch on the hub; by default the one this version was made for.
        variant: Version of a published data set, such as official for helpsteer2; by default the
            first that docs/data.md lists.
        draw: Number of the random choice of rows, for variants that make one.
        limit: At most so many rows of each file.
        streaming: Read a published data set over the network at every pass instead of downloading
            it once; by default the largest ones only.
        extra_columns: What happens if a published file has columns that this version does not
            know: an error, because upstream has changed, or nothing.
        parts: The data sets of a union.
        attributes: Attributes to use; by default all, which in a ratings file are all integer
            columns.
        pairing: Which rated responses of a prompt are compared: adjacent rows two by two, as in
            HelpSteer2, or all of them with each other.
        drop_unanimous: Leave out rated training responses that every attribute ranks the same way.
        corrections: Edited copy of a quarantine file: rows corrected there are read in place of
            those in the data; see micro-rm retry.
        test_fraction: Share of prompts held out when the data bring no split of their own.
        columns: Column names.
        synthetic: Settings of the synthetic source.
        simulator: Settings of the simulator, a source of vectors without any text.
    """

    name: str = "preferences"
    source: str = "jsonl"
    train: str | None = None
    test: str | None = None
    contexts: str | None = None
    dir: str | None = None
    revision: str | None = None
    variant: str | None = None
    draw: int = 0
    limit: int | None = None
    streaming: bool | None = None
    extra_columns: Literal["error", "ignore"] = "error"
    parts: list[PartConfig] = field(default_factory=list)
    attributes: list[str] | None = None
    pairing: Literal["adjacent", "all"] = "adjacent"
    drop_unanimous: bool = False
    corrections: str | None = None
    test_fraction: float = 0.2
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)

    def __post_init__(self) -> None:
        plain = self.name.replace("-", "").replace("_", "").replace(".", "")
        require(
            plain.isalnum() and not self.name.startswith("."),
            "data.name",
            "letters, digits, '-', '_' and '.' (it becomes a file name)",
            self.name,
        )
        require(0 < self.test_fraction < 1, "data.test_fraction", "in (0, 1)", self.test_fraction)
        require(self.draw >= 0, "data.draw", "0 or more", self.draw)
        require(self.limit is None or self.limit >= 1, "data.limit", "1 or more", self.limit)
        union = self.source == UNION_SOURCE
        require(bool(self.parts) == union, "data.parts", _PARTS_EXPECTED[union], self.parts)


_PARTS_EXPECTED = {
    True: "the data sets of the union, such as [{source: helpsteer2, use: train}]",
    False: "nothing, or data.source=union",
}
