"""Read a table of a data set on the hub with ``datasets``, with errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import Row
from .pair import DataError
from .upstream import Part

COMMIT = re.compile(r"[0-9a-f]{40}")
REMEDY = "or give local copies of its files with --data.dir"


@dataclass(frozen=True)
class HubTable:
    """One split of a data set at one revision; if ``streaming``, every pass downloads it again."""

    repo: str
    revision: str
    part: Part
    streaming: bool

    @property
    def where(self) -> str:
        """Repository, revision and split in one word, for messages and accounts."""
        inside = "/".join(filter(None, (self.part.subset, self.part.folder, self.part.split)))
        return f"{self.repo}@{self.revision[:12]}:{inside}"

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield row numbers from 1 and rows.

        Raises ``DataError`` if the hub cannot be reached, denies access or has no such table.
        """
        with self._helpful_errors():
            builder = self._builder()
            # Offline, only a downloaded copy can be read.
            if self.streaming and not _offline():
                table = builder.as_streaming_dataset(self.part.split)
            else:
                builder.download_and_prepare()
                table = builder.as_dataset(self.part.split)
            yield from enumerate(table, start=1)

    def to_download(self) -> str | None:
        """Name and size of the download that reading needs; None if it is in the local cache.

        Asks the hub for metadata only.
        """
        with self._helpful_errors():
            builder = self._builder()
        if Path(builder.cache_dir).is_dir():
            return None
        size = builder.info.download_size
        known = "" if size is None else f", {size / 1e6:,.0f} MB"
        return f"{self.where}{known}" + (", streamed at every pass" if self.streaming else "")

    def _builder(self) -> Any:
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        builder = datasets.load_dataset_builder(
            self.repo,
            name=self.part.subset,
            data_dir=self.part.folder,
            revision=self.revision,
        )
        # If the hub does not answer, ``datasets`` takes any cached revision.
        if COMMIT.fullmatch(self.revision) and builder.hash != self.revision:
            raise DataError(
                f"{self.where}: the hub does not answer, and the local cache has revision "
                f"{builder.hash}; connect once, or take that one with --data.revision"
            )
        return builder

    @contextmanager
    def _helpful_errors(self) -> Iterator[None]:
        """Turn errors of ``datasets`` that a user can put right into a ``DataError``."""
        try:
            yield
        except Exception as error:
            reason = _reason(error, self.part)
            if reason is None:
                raise
            raise DataError(f"{self.where}: the data set {reason}; {REMEDY} ({error})") from error


def _reason(error: Exception, part: Part) -> str | None:
    """Cause and remedy of an error of ``datasets``; None for an error of no known kind."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    causes = _causes(error)
    if isinstance(error, DatasetNotFoundError) and "gated" in str(error):
        return (
            "is gated: accept its terms on the hub, then log in with hf auth login or set HF_TOKEN"
        )
    if any(isinstance(cause, RevisionNotFoundError) for cause in causes):
        return (
            "has no such revision: name one that it has with --data.revision (main is the newest), "
            "and micro-rm check will say what is different"
        )
    if isinstance(error, DatasetNotFoundError):
        return "is not on the hub, or it is private: check HF_ENDPOINT, log in or set HF_TOKEN"
    if _offline() and isinstance(error, OSError):
        return "is not in the local cache and HF_HUB_OFFLINE is set: unset it once"
    if isinstance(error, ValueError) and re.search(r"split|config", str(error)):
        wanted = f"split {part.split!r}" + (f" of {part.subset!r}" if part.subset else "")
        return f"has no {wanted}: upstream has changed, leave data.revision out"
    if any(isinstance(cause, HfHubHTTPError | LocalEntryNotFoundError) for cause in causes):
        return "could not be fetched: the hub does not answer or refuses, try again later"
    if isinstance(error, OSError):
        return "could not be fetched: check the network and the disk"
    return None


def _offline() -> bool:
    from datasets import config

    return bool(config.HF_HUB_OFFLINE)


def _causes(error: BaseException) -> list[BaseException]:
    """The error and the chain of errors that it was raised from, outermost first."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain
