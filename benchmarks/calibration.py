"""Whether intervals, p-values and verdicts hold what they promise, by Monte Carlo.

    python benchmarks/calibration.py [--runs 10] [--repeats 1000] [--out FILE.json]

Three parts, each against what is expected of it:

- runs of ``configs/simulator.yaml`` that differ in ``run.seed`` alone (training seeds and labelled
  rows): how often two of them are called different, and how large a reported error is beside the
  spread of repeated experiments, each on test rows and wordings of its own;
- coverage of 95 % intervals where the truth is known: people who differ, attributes of twelve rows,
  few wordings, few draws of labelled rows that matter;
- reports of twenty methods without any effect, labels without meaning, and repeated rows.

Nothing is timed; the default takes a few minutes on two cores. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from micro_rm.configs.command_line import parse
from micro_rm.configs.schema import EvaluateConfig
from micro_rm.heads.evaluation.comparisons import comparisons, family
from micro_rm.heads.evaluation.inference import difference_interval
from micro_rm.heads.evaluation.protocol import TestSet
from micro_rm.heads.evaluation.report import accuracies, correct_over
from micro_rm.heads.evaluation.units import sampled_units
from micro_rm.heads.evaluation.variance import Estimate, infer
from micro_rm.heads.fitting import fit_methods, score_models
from micro_rm.heads.methods import choose_methods, load_method
from micro_rm.heads.stages import open_run_data

METHODS = ("single_bt", "static_mixture", "micro_stage1", "micro", "micro_kernel", "micro_hyre")
SUBSETS, WORDINGS = 10, 4
LEVEL = 0.05
Line = tuple[str, float, str]
Chances = Callable[[np.random.Generator], np.ndarray]


def trained_runs(count: int) -> tuple[TestSet, list[dict[str, np.ndarray]], dict[str, str]]:
    """The simulator's test set, (T, S, N) correctness by method of each run, and what is given.

    The test has as many rows and wordings as ``SUBSETS`` tests of the preset.
    """
    preset = str(Path(__file__).parents[1] / "configs" / "simulator.yaml")
    simulator = "--data.simulator"
    _, config = parse(
        [
            *("run", "--config", preset, f"--methods={','.join(METHODS)}"),
            f"{simulator}.test_pairs={1500 * SUBSETS}",
            f"{simulator}.test_wordings={WORDINGS * SUBSETS}",
            f"{simulator}.pairs_per_prompt=1",
        ]
    )
    data = open_run_data(config)
    test, runs = data.test_set, []
    for seed in range(count):
        run = data.member(replace(data.config, run=replace(data.config.run, seed=1000 + seed)))
        models: dict[str, list] = {}
        for stage in ("train", "adapt"):
            chosen = [method for method in choose_methods(METHODS) if method.stage == stage]
            fitted, failed = fit_methods(chosen, run.problems(adapt=stage == "adapt"), models)
            assert not failed, failed
            models |= fitted
        scored = score_models(run, models, test)
        runs.append({name: correct_over(scored[name]).astype(np.float32) for name in METHODS})
        print(f"run {seed + 1} of {count}", flush=True)
    return test, runs, {name: load_method(name).given for name in METHODS}


def subsets(test: TestSet) -> Iterator[np.ndarray]:
    """Rows of tests that share neither prompt nor wording."""
    assert test.wording_N is not None
    part_N = np.empty(test.wording_N.size, int)
    for attribute in range(len(test.attributes)):
        own_N = test.attribute_N == attribute
        rank_N = np.unique(test.wording_N[own_N], return_inverse=True)[1]
        part_N[own_N] = rank_N // WORDINGS
    for part in range(SUBSETS):
        yield np.flatnonzero(part_N == part)


def taken(test: TestSet, rows: np.ndarray) -> TestSet:
    """Some rows of a test set."""
    assert test.wording_N is not None
    return replace(
        test,
        table_rows=test.table_rows[rows],
        attribute_N=test.attribute_N[rows],
        prompt_N=test.prompt_N[rows],
        wording_N=test.wording_N[rows],
    )


def over_seeds(count: int) -> Iterator[Line]:
    """False differences between runs, and reported errors beside the spread there is."""
    test, runs, given = trained_runs(count)
    parts = [(rows, taken(test, rows)) for rows in subsets(test)]
    for method in METHODS:
        called = pairs = 0
        errors, values = [], []
        for index, (rows, part) in enumerate(parts):
            correct = {str(number): run[method][..., rows] for number, run in enumerate(runs)}
            for first in range(count):
                for second in range(first):
                    (item,) = family(
                        [(str(first), str(second))],
                        correct,
                        part,
                        dict.fromkeys(correct, given[method]),
                        1 - LEVEL,
                    )
                    called += item["standing"] in ("better", "worse")
                    pairs += 1
            # One experiment per subset: its own run, rows and wordings.
            units = sampled_units(part, reads_context=given[method] == "context")
            one = infer(correct[str(index % count)], part.attribute_N, list(units.values()))
            errors.append(one.error)
            values.append(one.value)
        yield f"{method}: two runs called different", called / pairs, "0.03 to 0.07"
        ratio = np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1)
        yield f"{method}: reported error / sd of {SUBSETS} experiments", ratio, "0.7 to 1.5"


def coverage(test: TestSet, truth: float, repeats: int, make: Chances, context: bool) -> float:
    """Share of 95 % intervals that hold the truth, given how the chance of each row is drawn."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(repeats):
        correct_1x1xN = drawn(make(rng), rng)
        macro = accuracies(correct_1x1xN, test, 1 - LEVEL, reads_context=context)["macro"]
        held += macro["low"] <= truth <= macro["high"]
    return held / repeats


def varied(mean: float, spread: float, unit_N: np.ndarray) -> Chances:
    """Chances of rows whose units differ."""

    def make(rng: np.random.Generator) -> np.ndarray:
        return np.clip(rng.normal(mean, spread, unit_N.max() + 1), 0, 1)[unit_N]

    return make


def drawn(chance_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(1, 1, N) correctness."""
    return (rng.random(chance_N.size) < chance_N)[None, None] * 1.0


def rows_of(attribute_N: np.ndarray) -> TestSet:
    """A test set with a prompt per row."""
    rows_N = np.arange(attribute_N.size)
    names = tuple(map(str, range(attribute_N.max() + 1)))
    return TestSet(rows_N, attribute_N, rows_N, names, rows_N.size)


def over_units(repeats: int) -> Iterator[Line]:
    """Coverage of intervals over people, rows and wordings."""
    person_N = np.repeat(np.arange(40), 25)
    people = replace(rows_of(np.zeros(1000, int)), user_N=person_N)
    for spread in (0.1, 0.2):
        everybody = varied(0.65, spread, np.arange(10**6))(np.random.default_rng(1))
        make = varied(0.65, spread, person_N)
        value = coverage(people, float(everybody.mean()), repeats, make, False)
        yield f"40 people x 25 prompts, people's sd {spread}: coverage", value, "0.93 to 0.97"
    for accuracy in (0.9, 0.97):
        for count, name in ((1, "attribute of 12 rows"), (6, "macro over 6 of these")):
            test = rows_of(np.repeat(np.arange(count), 12))
            make = varied(accuracy, 0.0, test.attribute_N)
            value = coverage(test, accuracy, repeats, make, False)
            yield f"{name}, accuracy {accuracy}: coverage", value, "0.93 or more"
    for wordings in (2, 3, 4, 8):
        wording_N = np.repeat(np.arange(wordings), 200 // wordings)
        test = replace(rows_of(np.zeros_like(wording_N)), wording_N=wording_N)
        value = coverage(test, 0.65, repeats, varied(0.65, 0.08, wording_N), True)
        yield f"{wordings} wordings of one context: coverage", value, "0.93 or more"


def over_draws(repeats: int) -> Iterator[Line]:
    """Two sets of five draws of labelled rows, spread 0.034, with nothing else between them."""
    rng, called = np.random.default_rng(2), 0
    chance_N, attribute_N = rng.beta(3, 1, 300), np.arange(300) % 6
    for _ in range(repeats):
        sets = []
        for _side in range(2):
            shift_Sx1 = rng.normal(0, 0.034, (5, 1))
            sets.append((rng.random(300) < np.clip(chance_N + shift_Sx1, 0, 1))[None] * 1.0)
        estimate = infer(sets[0] - sets[1], attribute_N, [np.arange(300)], bound=1.0)
        low, high = difference_interval(estimate, 1 - LEVEL)
        called += low > 0 or high < 0
    yield "draws alone, spread 0.034: called different", called / repeats, "0.03 to 0.07"


def without_effect(repeats: int) -> Iterator[Line]:
    """Reports of twenty methods as good as the comparator; labels without meaning; copies."""
    rng = np.random.default_rng(3)
    rows, names = 300, [f"m{number}" for number in range(21)]
    test = rows_of(np.arange(rows) % 6)
    given, config = dict.fromkeys(names, "prompt"), EvaluateConfig(against="m0")
    reports = max(repeats // 2, 1)
    false_reports = alone = 0
    for _ in range(reports):
        chance_N = rng.beta(3, 1, rows)
        correct = {name: drawn(chance_N, rng) for name in names}
        items = comparisons(correct, test, given, config)
        false_reports += any(item["standing"] in ("better", "worse") for item in items)
        alone += sum(item["p"] < LEVEL for item in items)
    yield (
        "20 methods without effect: reports with a false verdict",
        false_reports / reports,
        ("0.06 at most"),
    )
    yield "the same, without a family: false differences", alone / reports / 20, "0.035 to 0.065"
    called = 0
    difference_N = rng.choice([-1.0, 0.0, 1.0], rows, p=[0.15, 0.6, 0.25])
    units = list(sampled_units(test, reads_context=False).values())
    for _ in range(repeats):
        signs_N = rng.choice([-1.0, 1.0], rows)
        low, high = difference_interval(
            infer((signs_N * difference_N)[None, None], test.attribute_N, units, bound=1.0),
            1 - LEVEL,
        )
        called += low > 0 or high < 0
    yield "labels without meaning: called different", called / repeats, "0.035 to 0.065"
    once, twice = (_copies(difference_N, test.attribute_N, units, times) for times in (1, 2))
    yield "every row twice: change of the error", abs(once.error - twice.error), "0"


def _copies(
    difference_N: np.ndarray, attribute_N: np.ndarray, units: list[np.ndarray], times: int
) -> Estimate:
    return infer(
        np.tile(difference_N, times)[None, None],
        np.tile(attribute_N, times),
        [np.tile(unit_N, times) for unit_N in units],
    )


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10, help="runs of the simulator")
    parser.add_argument("--repeats", type=int, default=1000, help="of every other simulation")
    parser.add_argument("--out", type=Path, help="file for the numbers as JSON")
    options = parser.parse_args()
    lines = []
    for part in (
        over_units(options.repeats),
        over_draws(options.repeats),
        without_effect(options.repeats),
        over_seeds(options.runs) if options.runs > 1 else iter(()),
    ):
        for name, value, expected in part:
            print(f"{name:<66} {value:8.3f}   expected {expected}", flush=True)
            lines.append({"what": name, "found": value, "expected": expected})
    content = {"runs": options.runs, "repeats": options.repeats, "lines": lines}
    if options.out is not None:
        options.out.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    print(json.dumps(content))


if __name__ == "__main__":
    main()
