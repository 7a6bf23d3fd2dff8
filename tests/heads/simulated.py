"""Small and large simulations, made once, and what is read from them."""

from __future__ import annotations

from functools import cache

import numpy as np

from micro_rm.configs.simulator import SimulatorConfig
from micro_rm.configs.train import TrainConfig
from micro_rm.heads.simulation import Simulation, simulate

# Five standard errors: a right program fails one check in three million.
SIGMAS = 5
SMALL = SimulatorConfig(pairs=301, test_pairs=101, width=12)
LARGE = SimulatorConfig(pairs=20_000, test_pairs=10, width=8)


def recovery_config(num_heads: int) -> TrainConfig:
    """Training that finds the directions which the data were drawn from."""
    return TrainConfig(
        num_heads=num_heads,
        entropy_weight=0.05,
        learning_rate=1e-2,
        epochs=20,
        select="last",
        router="linear",
    )


@cache
def simulated(config: SimulatorConfig) -> Simulation:
    return simulate(config, "simulated")


def rows_of(simulation: Simulation, split: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(simulation.table.text["split"]) == split)


def vectors(simulation: Simulation, key: str, rows: np.ndarray | None = None) -> np.ndarray:
    places = simulation.table.rows[key]
    return simulation.store.vectors(places if rows is None else places[rows])
