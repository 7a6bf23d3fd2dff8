"""Which rows of a data set serve which purpose: training, validation, test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..cache.pairs import PairTable


@dataclass(frozen=True)
class Partition:
    """Row numbers of a pair table by purpose; no row serves two.

    ``adapt`` are rows for labels alone, which stage 1 does not see.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    adapt: np.ndarray


def partition(table: PairTable, validation_fraction: float) -> Partition:
    """Test rows as the data say; validation rows by prompt from the training rows."""
    split_N = np.asarray(table.text["split"])
    fraction_N = np.array([int(name[:13], 16) / 16**13 for name in table.text["prompt_id"]])
    held_out_N = fraction_N < validation_fraction
    is_train_N = split_N == "train"
    return Partition(
        train=np.flatnonzero(is_train_N & ~held_out_N),
        validation=np.flatnonzero(is_train_N & held_out_N),
        test=np.flatnonzero(split_N == "test"),
        adapt=np.flatnonzero(split_N == "adapt"),
    )
