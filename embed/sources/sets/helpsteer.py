"""HelpSteer (arXiv:2311.09528): up to four responses per prompt, rated as in HelpSteer2."""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream
from .helpsteer2 import ATTRIBUTES, rated_pairs


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """Train on the train split, test on the validation split."""
    yield from rated_pairs(files, "train", "train", config, account)
    yield from rated_pairs(files, "validation", "test", config, account)


SOURCE = Published(
    name="helpsteer",
    summary="ratings of up to four responses on five attributes",
    upstream=Upstream(
        repo="nvidia/HelpSteer",
        revision="df900ab7b9a6e3758de89cb064f7b168464d71fe",
        licence="CC-BY-4.0",
        parts=(Part("train", "train", 35_331), Part("validation", "validation", 1_789)),
        columns=frozenset({"prompt", "response", *ATTRIBUTES}),
    ),
    variants={"validation": ("train", "validation")},
    convert=convert,
    contexts="table6",
)
