"""What to do where a backbone gives NaN or infinity: leave out the sequence, or stop the job.

In one forward pass a single bad sequence may spoil its neighbours, because zero weights times
infinity are NaN. So whatever is not finite is computed again alone before it counts as failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache.failed import failed_keys
from ..cache.manifest import FILE, read_manifest
from ..cache.schema import KEY_DTYPE, StoreError
from .backbone import TorchBackbone

# So many failures say nothing yet about a backbone that has worked before.
FEW = 16


@dataclass
class FailureGuard:
    """Decides for one process which vectors are missing, and whether to go on.

    ``proven``: this backbone has given a finite vector in this store. ``known`` are (m,) keys that
    failed before: that they fail again says nothing new.
    """

    backbone: TorchBackbone
    name: str
    proven: bool
    known: np.ndarray

    @classmethod
    def of(cls, backbone: TorchBackbone, name: str, store: Path) -> FailureGuard:
        """The guard of a process that begins to write into a store."""
        if not (store / FILE).is_file():
            return cls(backbone, name, False, np.empty(0, KEY_DTYPE))
        return cls(backbone, name, read_manifest(store).rows > 0, failed_keys(store))

    def settle(self, sequences: Sequence[np.ndarray], vectors: np.ndarray) -> None:
        """Compute again, in place, the vectors (n, D) of one pass that are not finite.

        Raises ``StoreError`` if nothing is finite and never was, the first ``FEW`` sequences
        alone included.
        """
        bad = np.flatnonzero(~finite(vectors))
        failed = 0
        for tested, place in enumerate(bad.tolist()):
            if not self.proven and failed == tested == FEW and len(bad) == len(vectors):
                break
            vectors[place] = self.backbone.alone(sequences[place])
            failed += not finite(vectors[place : place + 1])[0]
        if not finite(vectors).any() and not self.proven:
            raise self._error(len(vectors), len(vectors), "the first forward pass")
        self.proven = True

    def failed(self, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """(n,) mask of a shard's settled vectors that are to be left out.

        Raises ``StoreError`` if they are more than half of those that are not known to fail.
        """
        failed = ~finite(vectors)
        if failed.any():
            fresh = ~np.isin(keys, self.known)
            count, of = int((failed & fresh).sum()), int(fresh.sum())
            if count > of / 2 and count > FEW:
                raise self._error(count, of, "a shard")
        return failed

    def _error(self, count: int, of: int, where: str) -> StoreError:
        return StoreError(
            f"the backbone {self.name} returned NaN or infinity for {count} of {of} sequences of "
            f"{where}, also alone; try backbone.dtype=float32"
        )


def finite(vectors: np.ndarray) -> np.ndarray:
    """(n,) whether all numbers of a vector are finite."""
    return np.asarray(np.isfinite(vectors.astype(np.float32)).all(axis=1))
