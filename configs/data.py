"""Settings of the data: local files, a published data set, a union of several, or a simulator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..common.errors import require
from .simulator import SimulatorConfig

JSONL_SOURCE, UNION_SOURCE = "jsonl", "union"
SYNTHETIC_SOURCE, SIMULATOR_SOURCE = "synthetic", "simulator"


@dataclass(frozen=True)
class ColumnsConfig:
    """Column names of the ``jsonl`` source; a file needs the columns of its responses only.

    Attributes:
        prompt: Prompt, as text or a list of messages; may be absent if chosen and rejected are
            whole conversations.
        chosen: Preferred response: text, messages or a whole conversation.
        rejected: The other response, in the same form.
        response: Response of a row with ratings.
        attribute: Criterion under which chosen was preferred.
        context: Context, the user's stated wish for the answer.
        user: User who judged the pair.
        split: train or test; read if there is no separate test file.
        margin: Rating difference between chosen and rejected.
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
    """The synthetic data of the demo: a seeded population of raters with opposed tastes.

    Attributes:
        seed: Seed of the population and its text.
        prompts: Number of distinct prompts.
        noise: Probability that a label is flipped.
    """

    seed: int = 0
    prompts: int = 320
    noise: float = 0.0

    def __post_init__(self) -> None:
        require(self.prompts >= 12, "data.synthetic.prompts", "12 or more", self.prompts)
        require(0 <= self.noise <= 0.5, "data.synthetic.noise", "between 0 and 0.5", self.noise)


@dataclass(frozen=True)
class PartConfig:
    """One data set of a union; the keys mean what they mean in ``data``.

    Attributes:
        source: Registered source other than union.
        use: Rows to use: training rows, test rows or both; adapt takes the training rows for
            stage 2 only.
        train: Training file of the jsonl source.
        test: Test file of the jsonl source.
        dir: Directory with local copies of a published data set.
        revision: Commit, tag or branch of a published data set.
        variant: Variant of a published data set.
        draw: Seed of the random subsets that limit and some variants take.
        limit: Largest number of rows per file of a published data set.
        contexts: Contexts for the attributes.
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
        name: Name of the data set in reports, and of its pair table in the store.
        source: Registered source: jsonl (local files), a published data set by its name (docs/
            data.md lists them), union of several, synthetic (text) or simulator (vectors).
        train: Training file: .jsonl or .parquet, .gz allowed.
        test: Test file; without it rows are split by their split column, else by prompt.
        contexts: JSON file {attribute: {"train": [texts], "test": [other texts]}}, where a list or
            a single text per attribute serves both splits; or the built-in table6 or reward_bench,
            or none. By default a published data set uses its own contexts, if it has any.
        dir: Directory with local copies of a published data set in the schema of the hub, to read
            instead of the hub; docs/data.md names the files.
        revision: Commit, tag or branch on the hub; by default the commit that this version was
            written for.
        variant: Variant of a published data set, such as official for helpsteer2; by default the
            first that docs/data.md lists.
        draw: Seed of the random subsets that limit and some variants take.
        limit: Largest number of rows per file of a published data set, a random subset of them.
        streaming: Read a published data set over the network in every pass instead of downloading
            it once; by default only for the largest ones.
        extra_columns: How to treat unknown columns of a published file: error, because upstream
            has changed, or ignore.
        parts: The data sets of a union.
        attributes: Attributes to use; by default all, which in a file of ratings are all integer
            columns.
        pairing: Which rated responses to a prompt form pairs: adjacent rows two by two, as in
            HelpSteer2, or all of them.
        drop_unanimous: Leave out training pairs of rated responses that every attribute ranks the
            same way.
        corrections: Edited copy of a quarantine file, whose rows replace those of the data; see
            micro-rm retry.
        test_fraction: Share of prompts that is held out if the data have no split of their own.
        columns: Column names.
        synthetic: Settings of the synthetic source.
        simulator: Settings of the simulator, a source of vectors without text.
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
