"""The reward head that a backbone comes with, stored beside its vectors in ``native_head.h5``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .files import replace_file
from .hdf5 import dataset, open_hdf5
from .output import create_hdf5

FILE = "native_head.h5"


def write_native_head(store: Path, head_D: np.ndarray) -> Path:
    """Write or replace the (D,) weights of the head, as float32; reward = vector @ head.

    The caller must hold the store's lock alone. Returns the path of the file.
    """
    path = store / FILE
    temporary = path.with_name(FILE + ".tmp")
    with create_hdf5(temporary) as file:
        file.create_dataset("weight", data=head_D.astype(np.float32), track_times=False)
    replace_file(store, FILE, temporary)
    return path


def read_native_head(store: Path) -> np.ndarray | None:
    """Read the (D,) float32 weights of the head, None if the store has none."""
    path = store / FILE
    if not path.is_file():
        return None
    with open_hdf5(path) as file:
        return dataset(file, "weight")[:]
