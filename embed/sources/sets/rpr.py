"""RPR (arXiv:2407.14916): every pair of answers is judged under two criteria that disagree.

A row gives two pairs: under ``criteria_x`` answer a is chosen, under ``criteria_y`` answer b. The
criterion is the context, its category the attribute. Both pairs have the row number and the split
of their row, so they can be matched.

nine  the categories in the paper; the default
ten   the categories in the paper's code, which include cultural sensitivity
"""

from __future__ import annotations

from collections.abc import Iterator

from ....configs.data import DataConfig
from ..account import Account
from ..conversation import clean_text, parse_prompt, two_distinct_texts
from ..files import Row
from ..pair import PreferencePair
from ..published import Files, Published
from ..upstream import Part, Upstream

NINE = (
    "rpr-clarity-and-conciseness",
    "rpr-creativity-and-originality",
    "rpr-scientific-rigor",
    "rpr-user-friendliness",
    "rpr-narrative-and-storytelling-quality",
    "rpr-pedagogical-effectiveness",
    "rpr-linguistic-creativity",
    "rpr-factual-accuracy",
    "rpr-humor-and-entertainment-value",
)
CATEGORIES = {"nine": NINE, "ten": (*NINE, "rpr-cultural-sensitivity")}


def convert(files: Files, config: DataConfig, account: Account) -> Iterator[PreferencePair]:
    """The pairs of both splits whose category belongs to the variant."""
    kept = CATEGORIES[files.variant]
    for split in ("train", "test"):

        def parse(number: int, row: Row, split: str = split) -> Iterator[PreferencePair]:
            prompt = parse_prompt(row["prompt"], "prompt")
            answers = two_distinct_texts(row, ("response_a", "response_b"))
            sides = [_side(row, "x"), _side(row, "y")]
            for (attribute, criterion), (chosen, rejected) in zip(
                sides, (answers, answers[::-1]), strict=True
            ):
                if attribute not in kept:
                    files.leave_out(f"category {attribute} is not one of the {files.variant}")
                    continue
                yield PreferencePair(
                    prompt=prompt,
                    chosen=chosen,
                    rejected=rejected,
                    split=split,
                    source=config.source,
                    attribute=attribute,
                    context=criterion,
                    row=number,
                )

        yield from files.pairs(split, parse)


def _side(row: Row, side: str) -> tuple[str, str]:
    """Attribute and criterion of side x or y."""
    category, criterion = (
        clean_text(row[name], name) for name in (f"category_{side}", f"criteria_{side}")
    )
    return attribute_of(category), criterion


def attribute_of(category: str) -> str:
    """The attribute of a category.

    Example:
        >>> attribute_of("Scientific Rigor")
        'rpr-scientific-rigor'
    """
    return "rpr-" + category.strip().lower().replace("&", "and").replace(" ", "-")


SOURCE = Published(
    name="rpr",
    summary="one pair of answers under two criteria that disagree",
    upstream=Upstream(
        repo="microsoft/rpr",
        revision="ae256f4aecbce50694d13ec6b5a1726fe3c4972b",
        licence="CDLA-Permissive-2.0",
        parts=(Part("train", "train", 10_167), Part("test", "test", 1_000)),
        columns=frozenset(
            {"prompt", "response_a", "response_b", "criteria_x", "criteria_y"}
            | {"category_x", "category_y"}
        ),
        optional=frozenset({"id", "scenario_x", "scenario_y", *(f"profile_{n}" for n in range(5))}),
    ),
    variants=dict.fromkeys(("nine", "ten"), ("train", "test")),
    convert=convert,
)
