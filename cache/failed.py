"""Sequences that a backbone gave NaN or infinity for: known with the shard that lacks them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from .hdf5 import dataset, open_hdf5
from .manifest import read_manifest
from .schema import KEY_BYTES, KEY_DTYPE

NAME = "failed"


def write_failed_keys(file: h5py.File, keys: np.ndarray) -> None:
    """Note (m,) keys in a shard that is being written; nothing if there are none."""
    if len(keys):
        spelled = np.frombuffer(keys.astype(KEY_DTYPE).tobytes(), np.uint8)
        file.create_dataset(NAME, data=spelled.reshape(-1, KEY_BYTES), track_times=False)


def failed_keys(store: Path) -> np.ndarray:
    """(m,) keys that failed in any listed shard, in no order; a later shard may have some."""
    parts = [np.empty(0, KEY_DTYPE)]
    for shard in read_manifest(store).shards:
        with open_hdf5(store / "shards" / shard.name) as file:
            if NAME in file:
                parts.append(dataset(file, NAME)[:].reshape(-1).view(KEY_DTYPE))
    return np.unique(np.concatenate(parts))
