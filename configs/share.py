"""Where a store is shared on the hub, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShareConfig:
    """A store on the hub, for micro-rm push and pull.

    Attributes:
        repo: Data set repository, owner/name.
        revision: Branch, tag or commit that pull takes.
        private: Whether push makes a new repository private.
        tables: Whether the pair tables go along. They hold prompts, responses and wishes: vectors
            alone may be shared more freely than the texts of a data set.
    """

    repo: str | None = None
    revision: str = "main"
    private: bool = True
    tables: bool = True
