"""A table of a data set on the hub, through ``datasets``; its errors in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .files import Row
from .pair import DataError
from .upstream import Part

# The name of this package's adapters is what is asked for; code of a repository is never run.
HELP = "or give local copies of its files with --data.dir"


@dataclass(frozen=True)
class HubTable:
    """One split at one revision. Streamed rows come over the network anew at every pass."""

    repo: str
    revision: str
    part: Part
    streaming: bool

    @property
    def where(self) -> str:
        """The table in words."""
        inside = "/".join(filter(None, (self.part.subset, self.part.folder, self.part.split)))
        return f"{self.repo}@{self.revision[:12]}:{inside}"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Row numbers from 1 and rows.

        Raises ``DataError`` if the hub cannot be reached or refuses, or has no such table.
        """
        with self._explained():
            yield from enumerate(self._load(), start=1)

    def _load(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        return datasets.load_dataset(
            self.repo,
            name=self.part.subset,
            data_dir=self.part.folder,
            split=self.part.split,
            revision=self.revision,
            streaming=self.streaming,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            yield
        except Exception as error:
            causes = _causes(error)
            if any(isinstance(cause, GatedRepoError) for cause in causes):
                reason = (
                    "is gated: accept its terms on the hub, then log in with `hf auth login` or "
                    "set HF_TOKEN"
                )
            elif any(isinstance(cause, RevisionNotFoundError) for cause in causes):
                reason = (
                    "has no such revision: give one that it has with --data.revision (main is the "
                    "newest), and micro-rm check will say what is different"
                )
            elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
                reason = "is not on the hub, or private: check HF_ENDPOINT and HF_TOKEN"
            elif any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
                reason = (
                    "is not in the local cache, and HF_HUB_OFFLINE forbids asking the hub: unset "
                    "it once to download"
                )
            elif any(isinstance(cause, HfHubHTTPError) for cause in causes):
                reason = "could not be fetched, the hub refused: try again later"
            elif isinstance(error, ConnectionError | DatasetNotFoundError | OSError):
                reason = "could not be fetched: check the network"
            elif isinstance(error, ValueError):
                reason = f"has no split {self.part.split!r} here: upstream has changed"
            else:
                raise
            raise DataError(f"{self.where}: the data set {reason}; {HELP} ({error})") from error


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
