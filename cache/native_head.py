"""The backbone's own reward head, kept beside its vectors: ``<store>/native_head.h5``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .files import replace_file
from .hdf5 import dataset, open_hdf5
from .output import create_hdf5

FILE = "native_head.h5"


def write_native_head(store: Path, head_D: np.ndarray) -> Path:
    """Write or replace the head: one weight per feature, float32, reward = vector . head."""
    path = store / FILE
    temporary = path.with_name(FILE + ".tmp")
    with create_hdf5(temporary) as file:
        file.create_dataset("weight", data=head_D.astype(np.float32), track_times=False)
    replace_file(store, FILE, temporary)
    return path


def read_native_head(store: Path) -> np.ndarray | None:
    """The head (D,), None if the backbone has none."""
    path = store / FILE
    if not path.is_file():
        return None
    with open_hdf5(path) as file:
        return dataset(file, "weight")[:]
