"""Keys of sequences whose vector came out as NaN or infinity.

Each shard records the failed keys of its part of the job, so that the next job skips them instead
of computing them again.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from .hdf5 import dataset, open_hdf5
from .manifest import read_manifest
from .schema import KEY_BYTES, KEY_DTYPE

NAME = "failed"


def write_failed_keys(file: h5py.File, keys: np.ndarray) -> None:
    """Record (m,) failed keys in a shard that is being written; an empty array writes nothing."""
    if len(keys):
        key_bytes = np.frombuffer(keys.astype(KEY_DTYPE).tobytes(), np.uint8)
        file.create_dataset(NAME, data=key_bytes.reshape(-1, KEY_BYTES), track_times=False)


def failed_keys(store: Path) -> np.ndarray:
    """(m,) distinct keys that failed in any listed shard, sorted.

    A failed key may have a vector all the same, in a shard of a later job that retried it.
    """
    parts = [np.empty(0, KEY_DTYPE)]
    for shard in read_manifest(store).shards:
        with open_hdf5(store / "shards" / shard.name) as file:
            if NAME in file:
                parts.append(dataset(file, NAME)[:].reshape(-1).view(KEY_DTYPE))
    return np.unique(np.concatenate(parts))
