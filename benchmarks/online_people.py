"""How soon does a run's model know a new person? People of the data, 20 comparisons each.

``python benchmarks/online_people.py --run runs/demo [--comparisons 20] [--json]``. A person is one
user of the data: their training pairs are what they can be asked, without a wish, in random order
and by what tells most; their test pairs are what counts. *Hindsight* is the fixed weights that do
best on those test pairs themselves. Training pairs taught the heads, which flatters all columns
alike; test pairs did not. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from online_router import data_of

import micro_rm
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.sources.pair import PreferencePair
from micro_rm.serve.model import Model
from micro_rm.serve.online.simulation import accuracy, best_fixed
from micro_rm.serve.online.weights import HedgeRule, Person

METHOD = "micro_stage1"
ORDERS = 20  # random orders, averaged


class Judged(NamedTuple):
    """Margins (N, K) of chosen minus rejected, and the router's log weights (N, K)."""

    margin_NxK: np.ndarray
    log_router_NxK: np.ndarray


def main() -> None:
    """Measure, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="the last line only")
    asked = parser.parse_args()
    people: dict[str, dict[str, list[PreferencePair]]] = defaultdict(lambda: defaultdict(list))
    for pair in open_pairs(data_of(asked.run)):
        if pair.user:
            people[pair.user][pair.split].append(pair)
    model = micro_rm.load(asked.run)
    rows = []
    for user, splits in sorted(people.items()):
        given, test = judged(model, splits["train"]), judged(model, splits["test"])
        rows.append({"user": user, **learnt(given, test, asked.comparisons)})
        if not asked.json:
            print(json.dumps(rows[-1]), flush=True)
    columns = [name for name in rows[0] if name != "user"]
    mean = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in columns}
    print(json.dumps({"name": "online_people", "mean": mean, "rows": rows}))


def judged(model: Model, pairs: list[PreferencePair]) -> Judged:
    """What the heads and the router make of pairs without their wishes."""
    prompts: list[Any] = [[turn._asdict() for turn in pair.prompt] for pair in pairs]
    chosen, rejected = (
        model.score(prompts, texts, method=METHOD)
        for texts in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    )
    rewards = [np.array([score.head_rewards for score in side]) for side in (chosen, rejected)]
    return Judged(rewards[0] - rewards[1], np.log([score.weights for score in chosen]))


def learnt(given: Judged, test: Judged, comparisons: int) -> dict[str, float]:
    """Accuracies on the test pairs: the router alone, and after so many comparisons."""
    best_K = best_fixed(test.margin_NxK, np.full(test.margin_NxK.shape[1], 1.0))
    result = {"router": won(test, np.exp(test.log_router_NxK))}
    for name, rule in (("heads_only", HedgeRule(single=1.0)), ("online", HedgeRule())):
        found = []
        for order in range(ORDERS):
            rng = np.random.default_rng(order)
            places = rng.permutation(len(given.margin_NxK))[:comparisons]
            found.append(after(given, list(places), rule, test))
        result[name] = float(np.mean(found))
    result["asked"] = after(given, telling(given, comparisons), HedgeRule(), test)
    result["hindsight"] = won(test, best_K[None])
    return {name: round(value, 3) for name, value in result.items()}


def telling(given: Judged, comparisons: int) -> list[int]:
    """The pairs that ``/ask`` puts first, one after the other."""
    person, rule, places = Person.new(given.margin_NxK.shape[1]), HedgeRule(), []
    for _ in range(comparisons):
        information_N = rule.information(person, given.margin_NxK)
        information_N[places] = -1
        places.append(int(information_N.argmax()))
        person = person.after(given.margin_NxK[places[-1]], 0.0)
    return places


def after(given: Judged, places: list[int], rule: HedgeRule, test: Judged) -> float:
    """Accuracy of a person's weights once they answered these."""
    person = Person.new(given.margin_NxK.shape[1])
    for place in places:
        person = person.after(given.margin_NxK[place], 0.0)
    return won(test, np.exp(rule.log_weights(test.log_router_NxK, person)))


def won(test: Judged, weights_NxK: np.ndarray) -> float:
    """Accuracy of weighted rewards."""
    return accuracy((test.margin_NxK * weights_NxK).sum(axis=1))


if __name__ == "__main__":
    main()
