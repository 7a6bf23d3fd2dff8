"""Scored rows of a run read back from ``predictions.parquet``, and aligned with those of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import ArrowException, Table, parquet

from ...cache.schema import StoreError
from ...common.errors import UserError
from .predictions import LABELS
from .protocol import TestSet, index_rows

FILE = "predictions.parquet"
COLUMNS = ("method", "seed", "draw", "correct", "scored", *LABELS)


class RowsError(UserError):
    """Runs were not scored on the same test rows; the message says how they differ."""


@dataclass(frozen=True)
class SavedScores:
    """What a run's methods got right.

    Attributes:
        labels: Per name in ``LABELS``, (N,) texts of the test rows.
        correct: Per method, (T, S, N) correctness over seeds, draws and rows; NaN where a draw does
            not score a row.
    """

    labels: Mapping[str, np.ndarray]
    correct: Mapping[str, np.ndarray]

    @property
    def keys(self) -> list[tuple[str, str, int]]:
        """What identifies each row in other runs: pair, attribute, and which of several copies."""
        seen: dict[tuple[str, str], int] = {}
        keys = []
        for pair in zip(self.labels["pair_id"], self.labels["attribute"], strict=True):
            seen[pair] = seen.get(pair, -1) + 1
            keys.append((*pair, seen[pair]))
        return keys

    def take(self, rows: np.ndarray) -> SavedScores:
        """Some rows, in the order asked for."""
        return SavedScores(
            {name: label_N[rows] for name, label_N in self.labels.items()},
            {name: correct[..., rows] for name, correct in self.correct.items()},
        )

    @property
    def test(self) -> TestSet:
        """The rows as a test set."""
        return index_rows(self.labels, np.arange(len(self.labels["pair_id"])))


def read_scores(run: Path) -> SavedScores:
    """The scored rows of a run. Raises ``StoreError`` if it has none that can be read."""
    path = run / FILE
    try:
        stored = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in COLUMNS if name in stored])
        methods = table["method"].to_pylist()
        # Runs of before 2026-12 have one seed, and no column of that name.
        seed_R = _numbers(table, "seed") if "seed" in stored else np.zeros(len(methods), int)
        draw_R = _numbers(table, "draw")
        correct_R = np.where(
            _numbers(table, "scored").astype(bool), _numbers(table, "correct"), np.nan
        )
        first = [name == methods[0] for name in methods] & (seed_R == 0) & (draw_R == 0)
        labels = {name: np.array(table[name].to_pylist(), object)[first] for name in LABELS}
    except (OSError, ArrowException, KeyError, IndexError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); run micro-rm evaluate") from error
    names = np.array(methods, object)
    correct = {}
    for name in dict.fromkeys(methods):
        own_R = names == name
        shape = (int(seed_R[own_R].max()) + 1, int(draw_R[own_R].max()) + 1, -1)
        # Written seed by seed, draw by draw, each with all rows in one order.
        correct[name] = correct_R[own_R].reshape(shape)
    return SavedScores(labels, correct)


def shared_rows(runs: Sequence[SavedScores]) -> list[SavedScores]:
    """The rows that all runs were scored on, in the order of the first.

    Raises ``RowsError`` if there are none, or if one has other labels elsewhere.
    """
    positions = [{key: row for row, key in enumerate(run.keys)} for run in runs]
    common = [key for key in positions[0] if all(key in one for one in positions[1:])]
    if not common:
        counts = ", ".join(str(len(one)) for one in positions)
        raise RowsError(
            f"expected runs scored on the same test rows, found none in common ({counts} rows); "
            "compare runs of one data set and split"
        )
    aligned = [
        run.take(np.array([position[key] for key in common]))
        for run, position in zip(runs, positions, strict=True)
    ]
    for name in LABELS:
        for other in aligned[1:]:
            differing = np.flatnonzero(aligned[0].labels[name] != other.labels[name])
            if differing.size:
                row = differing[0]
                raise RowsError(
                    f"expected test rows with the same {name}, found {differing.size} that differ "
                    f"(pair {common[row][0]}: {aligned[0].labels[name][row]!r} and "
                    f"{other.labels[name][row]!r}); compare runs of one data set"
                )
    return aligned


def _numbers(table: Table, name: str) -> np.ndarray:
    return table[name].to_numpy()
