"""Handle NaN and infinity from a backbone: leave out the sequence, or stop the job.

One bad sequence may spoil its neighbours in a forward pass, because an attention weight of zero
times infinity is NaN. A vector that is not finite is therefore computed again separately before it
counts as failed.
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

# Up to this many failures are blamed on the sequences, not on the backbone.
TOLERATED_FAILURES = 16


@dataclass
class FailureGuard:
    """Decides which vectors of a process are left out, and when to stop the job.

    Attributes:
        backbone: The model.
        name: Its name, for messages.
        proven: Whether this backbone has given any finite vector for this store.
        known_failures: (m,) keys that failed before and do not count against the backbone again.
    """

    backbone: TorchBackbone
    name: str
    proven: bool
    known_failures: np.ndarray

    @classmethod
    def for_store(cls, backbone: TorchBackbone, name: str, store: Path) -> FailureGuard:
        """Create the guard of a process that writes into a store, which may be new."""
        if not (store / FILE).is_file():
            return cls(backbone, name, False, np.empty(0, KEY_DTYPE))
        return cls(backbone, name, read_manifest(store).rows > 0, failed_keys(store))

    def recompute_nonfinite(self, sequences: Sequence[np.ndarray], vectors: np.ndarray) -> None:
        """Compute the vectors (n, D) of a pass that are not finite again, separately and in place.

        Raises ``StoreError`` if the backbone has never given a finite vector and gives none here,
        not even for the first ``TOLERATED_FAILURES`` sequences separately.
        """
        bad = np.flatnonzero(~finite(vectors))
        hopeless = len(bad) == len(vectors) and not self.proven
        failed = 0
        for tested, index in enumerate(bad.tolist()):
            # A backbone that fails everywhere is not given thousands of passes more.
            if hopeless and failed == tested == TOLERATED_FAILURES:
                break
            vectors[index] = self.backbone.reference_vector(sequences[index])
            failed += not finite(vectors[index : index + 1])[0]
        if not finite(vectors).any() and not self.proven:
            raise self._error(len(vectors), len(vectors), "the first forward pass")
        self.proven = True

    def failed_mask(self, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """(n,) mask of the vectors of a shard to leave out, after recomputation.

        Raises ``StoreError`` if they are more than half of the sequences that had not failed
        before, and more than ``TOLERATED_FAILURES``.
        """
        failed = ~finite(vectors)
        if failed.any():
            new = ~np.isin(keys, self.known_failures)
            count, total = int((failed & new).sum()), int(new.sum())
            if count > total / 2 and count > TOLERATED_FAILURES:
                raise self._error(count, total, "a shard")
        return failed

    def _error(self, count: int, total: int, where: str) -> StoreError:
        return StoreError(
            f"the backbone {self.name} returned NaN or infinity for {count} of {total} sequences "
            f"of {where}, also alone; try backbone.dtype=float32"
        )


def finite(vectors: np.ndarray) -> np.ndarray:
    """(n,) mask of the vectors (n, D) without NaN and infinity."""
    return np.asarray(np.isfinite(vectors.astype(np.float32)).all(axis=1))
