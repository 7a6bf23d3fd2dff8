"""The backbone's own reward head, kept beside its vectors: ``<store>/native_head.h5``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .output import create_hdf5
from .reader import open_shard
from .schema import commit_file, dataset

FILE = "native_head.h5"


def write_native_head(store: Path, head_D: np.ndarray) -> Path:
    """Write or replace the head: one weight per feature, float32, reward = vector . head."""
    path = store / FILE
    temporary = path.with_name(FILE + ".tmp")
    with create_hdf5(temporary) as file:
        file.create_dataset("weight", data=head_D.astype(np.float32), track_times=False)
    commit_file(temporary, path)
    return path


def read_native_head(store: Path) -> np.ndarray | None:
    """The head (D,), None if the backbone has none."""
    path = store / FILE
    if not path.is_file():
        return None
    with open_shard(path) as file:
        return dataset(file, "weight")[:]
