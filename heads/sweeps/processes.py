"""The processes of one job: how many there are and which this one is, from ``jax.distributed``.

Members need nothing of each other, so processes share them out and never talk again; their parts
are joined on disk.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import jax

from ...common.errors import require

# A process that is done waits so long for the others before it gives up on them, in seconds.
PATIENCE = 7 * 24 * 3600
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Share(NamedTuple):
    """The part of a job that is this process's, from 0, and the number of parts."""

    part: int
    parts: int


def join(*, distributed: bool) -> Share:
    """This process's share. To be called before JAX computes anything.

    JAX knows SLURM, Open MPI, Kubernetes and TPU jobs; elsewhere the three environment variables of
    ``VARIABLES`` say it. Raises ``ConfigError`` if some of them are missing.
    """
    if not distributed:
        return Share(0, 1)
    given = [name for name in VARIABLES if name in os.environ]
    if not given:
        jax.distributed.initialize(shutdown_timeout_seconds=PATIENCE)
    else:
        missing = ", ".join(name for name in VARIABLES if name not in given)
        require(
            not missing, "sweep.distributed", f"{', '.join(VARIABLES)} in the environment", given
        )
        address, processes, number = (os.environ[name] for name in VARIABLES)
        jax.distributed.initialize(
            address, int(processes), int(number), shutdown_timeout_seconds=PATIENCE
        )
    return Share(jax.process_index(), jax.process_count())
