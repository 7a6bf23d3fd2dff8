"""How close do simulated people come to the best fixed weights? The table of docs/serving.md.

``python benchmarks/online_simulation.py [--people 100] [--comparisons 20] [--json]``. Crowds of
people with one head each and with mixed tastes, learnt by the paper's rule (heads only), by the
default and with half of the belief on mixtures, from comparisons as they come, and by the default
from those that tell most of a pool of 200. Minutes of one core. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from micro_rm.serve.online.simulation import SimulatedPeople, simulate_population
from micro_rm.serve.online.weights import HedgeRule

POOL = 200
CROWDS = {
    "one head, 4 logits": SimulatedPeople(),
    "one head, 2 logits": SimulatedPeople(scale=2.0),
    "one head, 1 logit": SimulatedPeople(scale=1.0),
    "one head, the router leans to it": SimulatedPeople(router=2.0, router_noise=1.0),
    "one head, the router errs": SimulatedPeople(router_noise=2.0),
    "Dirichlet(0.1)": SimulatedPeople(concentration=0.1),
    "Dirichlet(0.3)": SimulatedPeople(concentration=0.3),
    "Dirichlet(1)": SimulatedPeople(concentration=1.0),
}
RULES = {"heads_only": HedgeRule(single=1.0), "online": HedgeRule(), "half": HedgeRule(single=0.5)}


def main() -> None:
    """Measure, print a line per crowd, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--test", type=int, default=800, help="unseen pairs of every person")
    parser.add_argument("--json", action="store_true", help="the last line only")
    asked = parser.parse_args()
    rows = []
    for name, crowd in CROWDS.items():
        crowd = replace(crowd, people=asked.people, comparisons=asked.comparisons, test=asked.test)
        outcomes = {rule: simulate_population(crowd, chosen) for rule, chosen in RULES.items()}
        outcomes["asked"] = simulate_population(replace(crowd, pool=POOL), HedgeRule())
        row = {"crowd": name} | {
            rule: {key: round(value, 3) for key, value in one._asdict().items()}
            | {"gap": round(one.gap, 3)}
            for rule, one in outcomes.items()
        }
        rows.append(row)
        if not asked.json:
            print(json.dumps(row), flush=True)
    print(json.dumps({"name": "online_simulation", "rows": rows}))


if __name__ == "__main__":
    main()
