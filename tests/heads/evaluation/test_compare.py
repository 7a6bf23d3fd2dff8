"""Our numbers beside the published ones: noise of both sides, and what the paper misprints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from micro_rm.heads.evaluation.compare import (
    ABOVE,
    BELOW,
    NO_COUNTERPART,
    ROUNDING,
    WITHIN,
    CompareError,
    comparable,
    compare,
    published_tables,
)
from micro_rm.tests.heads.evaluation.published_reports import HALF, TABLES, data_of, report_of

DRAWS = 5  # MiCRo is a mean of so many
# What no run can have scored: table, row, attribute. The notes name each of them.
IMPOSSIBLE = {
    ("table3", "ARMO (8B)", "rpr-humor-and-entertainment-value"),
    ("table3", "MiCRo", "rpr-creativity-and-originality"),
    ("table3", "MiCRo", "rpr-humor-and-entertainment-value"),
}


def row_of(comparison: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in comparison["rows"] if row["name"] == name)


def test_every_row_averages_as_printed_or_its_misprint_is_noted() -> None:
    """Finds misprints, in the paper and in the transcription."""
    found = {}
    for name, table in TABLES.items():
        first = next(row["ours"] for row in table["rows"] if row["ours"])
        notes = compare(report_of(name, {first: 0.0}), name)["notes"]
        for row in table["rows"]:
            assert len(row["values"]) == len(table["attributes"]) == len(table["n"])
            texts = [n["text"] for n in notes if n["about"] == f"average of {row['name']}"]
            mean = sum(row["values"]) / len(row["values"])
            off = row["average"] is not None and abs(mean - row["average"]) > ROUNDING
            assert len(texts) == off
            found[name, row["name"]] = "".join(texts)
    for row, (printed, recomputed) in {
        ("table4_helpsteer2", "MiCRo"): ("0.8133", "0.8039"),
        ("table4_700k", "Shared-base Best Head"): ("0.8009", "0.8104"),
        ("table3", "MiCRo-HyRe"): ("0.8974", "0.8976"),
    }.items():
        assert f"Printed as {printed}" in found[row] and f"average {recomputed}" in found[row]


def is_printed_share(value: float, rows: int) -> bool:
    """Whether some number of right rows gives this value, rounded or cut to four digits."""
    return any(
        abs(right / rows - value) < 1e-4 for right in (int(value * rows), int(value * rows) + 1)
    )


def test_values_are_multiples_of_one_over_the_rows_that_were_scored() -> None:
    """Finds typing errors and test sets of another size."""
    result = set()
    for name, table in TABLES.items():
        for row in table["rows"]:
            if (name, row["name"]) == ("table7", "MiCRo"):  # repeats Table 3
                continue
            draws = DRAWS if row["name"] == "MiCRo" else 1
            for index, value in enumerate(row["values"]):
                rows = (table["n"][index] - row.get("left_out", 0)) * draws
                if not is_printed_share(value, rows):
                    result.add((name, row["name"], table["attributes"][index]))
    assert result == IMPOSSIBLE
    for name, row, attribute in result:
        about = f"{row} on {attribute.split('-')[1]}"
        assert about in {note["about"] for note in TABLES[name]["notes"]}


def test_tables_repeat_rows_as_they_are_and_a_copy_is_noted() -> None:
    rows = {name: {row["name"]: row["values"] for row in TABLES[name]["rows"]} for name in TABLES}
    for copy, original, name in (
        ("table7", "table3", "Single Reward"),
        ("table7", "table3", "MiCRo"),
        ("table8", "table2", "Single Reward"),
        ("table3", "table4_helpsteer2", "Static Mixture"),
    ):
        assert rows[copy][name] == rows[original][name]
    for name in ("table3", "table4_helpsteer2"):
        (text,) = [n["text"] for n in TABLES[name]["notes"] if n["about"] == "Static Mixture"]
        assert text.startswith("Digit for digit")


def test_one_draw_and_single_heads_explain_what_is_no_mean_and_no_mixture() -> None:
    single = TABLES["table4_helpsteer2"]
    (micro,) = [row for row in single["rows"] if row["name"] == "MiCRo"]
    assert all(map(is_printed_share, micro["values"], single["n"]))
    (mixed,) = [row for row in TABLES["table2"]["rows"] if row["name"] == "MiCRo-HyRe"]
    heads = [row["values"] for row in TABLES["table8"]["rows"] if " Head " in row["name"]]
    for index, value in enumerate(mixed["values"]):
        assert value in [values[index] for values in heads]


def test_published_counts_have_the_sums_of_the_text() -> None:
    sums = {
        name: (sum(counts["train"]), sum(counts["test"]))
        for name, counts in published_tables()["table5"]["counts"].items()
    }
    assert sums == {"helpsteer2": (23482, 3820), "rpr": (6750, 699)}


@pytest.mark.parametrize(("table", "attributes"), [("table7", 9), ("table8", 5)])
def test_the_best_heads_average_as_the_text_says(table: str, attributes: int) -> None:
    result = row_of(compare(report_of(table, {"single_bt": 0.0}), table), "Best MiCRo Head")
    assert result["ours"] == "micro_stage1_best_head_oracle"
    assert len(result["cells"]) == attributes
    average = result["average"]
    assert average["published"] == pytest.approx(average["printed"], abs=5e-4)


def variance(right: float, rows: int) -> float:
    """Of an accuracy after two more right and two more wrong rows."""
    share = (right + 2) / (rows + 4)
    return share * (1 - share) / (rows + 4)


@pytest.mark.parametrize(("offset", "verdict"), [(0.11, WITHIN), (0.13, ABOVE), (-0.13, BELOW)])
def test_a_difference_counts_only_beyond_the_noise_of_both_sides(
    offset: float, verdict: str
) -> None:
    """145 of 185 rows are right; our interval is one of a standard error of 0.05."""
    report, ours = report_of("table2", {"single_bt": offset}, error=0.05), 0.7838 + offset
    cell = row_of(compare(report, "table2"), "Single Reward")["cells"]["helpfulness"]
    assert cell["verdict"] == verdict
    expected = HALF * math.sqrt(0.05**2 + variance(145, 185))
    assert cell["noise"] == pytest.approx(expected, rel=1e-4)
    found = [cell[name] for name in ("difference", "ours", "low", "high")]
    assert found == pytest.approx([offset, ours, ours - 0.05 * HALF, ours + 0.05 * HALF])


def test_an_interval_without_width_is_not_taken_for_certainty() -> None:
    """Four right rows of four: every resample is right, but the next row may not be."""
    report = report_of("table2", {"single_bt": 0.0})
    sure = {"accuracy": 1.0, "low": 1.0, "high": 1.0, "n": 4}
    report["methods"]["single_bt"]["attributes"]["verbosity"] = sure
    cell = row_of(compare(report, "table2"), "Single Reward")["cells"]["verbosity"]
    assert cell["verdict"] == WITHIN
    expected = HALF * math.sqrt(variance(4, 4) + variance(134, 152))
    assert cell["noise"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("table", "row", "right", "rows"),
    [("table2", "HyRe", 130, 185 - 16), ("table3", "MiCRo-HyRe", 43, 53 - 8)],
)
def test_rows_that_a_published_method_has_adapted_to_make_no_test_rows(
    table: str, row: str, right: int, rows: int
) -> None:
    report = report_of(table, {"hyre": 0.0, "micro_hyre": 0.0}, error=0.05)
    cell = row_of(compare(report, table), row)["cells"][TABLES[table]["attributes"][0]]
    expected = HALF * math.sqrt(0.05**2 + variance(right, rows))
    assert cell["noise"] == pytest.approx(expected, rel=1e-4)


def test_an_average_is_less_noisy_than_its_cells() -> None:
    report = report_of("table2", {"single_bt": 0.06}, error=0.02)
    result = row_of(compare(report, "table2"), "Single Reward")
    right, sizes = [145, 115, 112, 102, 134], [185, 172, 162, 129, 152]
    published = sum(map(variance, right, sizes)) / 25
    expected = HALF * math.sqrt(0.02**2 + published)
    assert result["average"]["noise"] == pytest.approx(expected, rel=1e-4)
    assert result["average"]["verdict"] == ABOVE
    assert result["cells"]["coherence"]["verdict"] == WITHIN


def test_what_has_no_counterpart_is_not_compared() -> None:
    """A method that nobody runs, one that was not run, and an average over other attributes."""
    report = report_of("table2", {"single_bt": 0.0})
    assert not any("Not the same" in note["text"] for note in compare(report, "table2")["notes"])
    del report["methods"]["single_bt"]["attributes"]["verbosity"]
    comparison = compare(report, "table2")
    for name in ("ARMO (8B)", "MiCRo"):
        verdicts = {cell["verdict"] for cell in row_of(comparison, name)["cells"].values()}
        assert verdicts == {NO_COUNTERPART}
    result = row_of(comparison, "Single Reward")
    assert result["average"]["verdict"] == NO_COUNTERPART == result["cells"]["verbosity"]["verdict"]
    assert result["cells"]["coherence"]["verdict"] == WITHIN
    (text,) = [note["text"] for note in comparison["notes"] if "Not the same" in note["text"]]
    assert "185/172/162/129/0 rows, theirs 185/172/162/129/152" in text
    assert all(note in comparison["notes"] for note in TABLES["table2"]["notes"])


def notes_about(table: str, data: Mapping[str, Any]) -> dict[str, str]:
    report = report_of(table, {"single_bt": 0.0})
    report["record"]["config"]["data"] = data
    notes = compare(report, table)["notes"]
    abouts = ("training data", "test data", "variant")
    return {note["about"]: note["text"] for note in notes if note["about"] in abouts}


MODELS = "Not the same models: ours are trained on rpr, theirs on helpsteer2."
DATA = "Not the same test set: ours is of helpsteer, theirs of helpsteer2."
UNUSED = {"source": "shp", "variant": None, "use": "both"}  # parts of no union
SPLIT = "Not the same test set: our split is {}, theirs is drawn from official."


@pytest.mark.parametrize(
    ("table", "source", "variant", "notes"),
    [
        ("table3", "rpr", None, {}),
        ("table4_helpsteer2", "rpr", None, {"training data": MODELS}),
        ("table2", "helpsteer", "official", {"training data": ..., "test data": DATA}),
        ("table2", "helpsteer2", "official_800", {}),
        ("table2", "helpsteer2", None, {"variant": SPLIT.format("the default")}),
        ("table2", "helpsteer2", "by_prompt", {"variant": SPLIT.format("by_prompt")}),
    ],
)
def test_other_data_are_said_to_be_others(
    table: str, source: str, variant: str | None, notes: dict[str, Any]
) -> None:
    data = {"source": source, "variant": variant, "parts": [UNUSED]}
    found = notes_about(table, data)
    assert found.keys() == notes.keys()
    assert all(text in (..., found[about]) for about, text in notes.items())


def test_parts_of_a_union_that_are_only_adapted_to_are_no_other_data() -> None:
    for name in ("table2", "table3"):  # with and without variants of its data
        data = data_of(TABLES[name])
        data["parts"].append({"source": "helpsteer", "variant": None, "use": "adapt"})
        assert notes_about(name, data) == {}


def test_a_benchmark_is_compared_in_its_sections() -> None:
    report = report_of("table9", {"single_bt": 0.0})
    report["benchmark"] = {"methods": report["methods"]}
    report["methods"] = {"single_bt": {"attributes": {"math-prm": {}}}}
    cells = row_of(compare(report, "table9"), "Single Reward (3B)")["cells"]
    assert {cell["verdict"] for cell in cells.values()} == {WITHIN}


def test_counts_of_pairs_stand_beside_the_published_ones() -> None:
    counts = {"verbosity": {"train": 4584, "test": 750}, "else": {"train": 1, "test": 1}}
    result = compare({"account": {"attributes": counts}}, "table5")
    assert result["counts"] == [
        {"name": "helpsteer2 verbosity train", "published": 4584, "ours": 4584},
        {"name": "helpsteer2 verbosity test", "published": 754, "ours": 750},
    ]
    with pytest.raises(CompareError, match=r"helpsteer2, rpr.*attributes else"):
        compare({"account": {"attributes": {"else": {}}}}, "table5")


def test_what_cannot_be_compared_is_an_error_that_names_what_there_is() -> None:
    report = report_of("table2", {"single_bt": 0.0})
    with pytest.raises(CompareError, match=r"'table6'; there are table2, table3"):
        compare(report, "table6")
    with pytest.raises(CompareError, match=r"table3 is about rpr-.*the report has helpfulness"):
        compare(report, "table3")


def test_tables_that_share_an_attribute_are_comparable() -> None:
    assert comparable(report_of("table2", {"single_bt": 0.0})) == ["table2", "table8"]
    rpr = ["table3", "table4_700k", "table4_helpsteer2", "table7"]
    assert comparable(report_of("table3", {"single_bt": 0.0})) == rpr


def test_it_is_said_whose_labels_hyre_learns_from_where_they_are_not_the_same() -> None:
    words = "Ours adapt to labelled training rows, theirs to test rows."
    report = report_of("table2", {"single_bt": 0.0})
    assert words not in [note["text"] for note in compare(report, "table2")["notes"]]
    report["budget"] = {"source": "train"}
    (note,) = [note for note in compare(report, "table2")["notes"] if note["text"] == words]
    assert note["about"] == "HyRe, MiCRo-HyRe"
    other = report_of("table4_700k", {"single_bt": 0.0}) | {"budget": {"source": "train"}}
    assert words not in [note["text"] for note in compare(other, "table4_700k")["notes"]]
