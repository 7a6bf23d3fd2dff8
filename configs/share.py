"""Settings of micro-rm push and pull."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShareConfig:
    """A store that is shared on the hub.

    Attributes:
        repo: Data set repository, owner/name.
        revision: Branch, tag or commit to pull.
        private: Make a repository private when push creates it.
        tables: Push the pair tables too. They hold prompts, responses and contexts: licences may
            allow to share vectors, but not the texts of a data set.
    """

    repo: str | None = None
    revision: str = "main"
    private: bool = True
    tables: bool = True
