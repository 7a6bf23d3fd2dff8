"""Terminal output of the check of Theorem 3.2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

COLUMNS = {
    "H": "irreducible",
    "paper": "paper_bound",
    "pair": "per_pair_bound",
    "limit": "best_single",
    "told": "told",
    "mixture": "mixture",
    "joint": "joint",
    "single": "single",
}
CASES = {
    "ordered": "prompt tells",
    "shuffled": "shuffled",
    "silent": "prompt silent",
}
NOTE = (
    "Nats per pair. H: group known; paper, pair: lower bounds; limit: least loss of any prediction "
    "without the group. Fitted: told (one head, told the group), mixture (with a router), joint "
    "(one head on prompt x response), single (one head). With the order shuffled the bound of the "
    "paper is H and says nothing, though no loss has changed; where the prompt is silent, no "
    "mixture gets below the limit either."
)


def theory_table(result: Mapping[str, Any]) -> list[RenderableType]:
    """The parts to print: results on random mixtures, a table by case and spread, a legend.

    ``result`` is what ``run_theory`` returns.
    """
    random, misread = result["random"], result["misreadings"]["raw_scores"]
    share = {name: f"{item['median']:.2f}" for name, item in random["tightness"].items()}
    table = Table("", "spread", *COLUMNS, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for case, title in CASES.items():
        for index, row in enumerate(row for row in result["sweep"] if row["case"] == case):
            values = (f"{row['values'][key]['value']:.3f}" for key in COLUMNS.values())
            table.add_row(title if index == 0 else "", f"{row['spread']:g}", *values)
        table.add_section()
    return [
        Text(
            f"violations         {sum(random['violations'].values())} of "
            f"{len(random['violations'])} inequalities on {random['mixtures']:,} random mixtures"
        ),
        Text(
            f"share of the gap   paper {share['paper_bound']}, per pair {share['per_pair_bound']}, "
            f"weighted {share['weighted_bound']} (medians)"
        ),
        Text(
            f"with raw scores    a right side of {misread['right_side']:.1f}, but a constant has "
            f"loss {misread['attainable_loss']:.3f}"
        ),
        Text(""),
        table,
        Text(NOTE),
    ]
