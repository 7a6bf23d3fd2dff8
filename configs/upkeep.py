"""Settings of the commands that maintain a store."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class UpkeepConfig:
    """Settings of micro-rm verify, gc, copy and delete.

    Attributes:
        rebuild: Let verify rebuild the manifest from the shards; damaged files are set aside.
        yes: Let gc and delete change the store without asking.
        users: Users whose rows delete removes.
        pairs: Ids of the pairs that delete removes.
        to: Directory that copy writes.
    """

    rebuild: bool = False
    yes: bool = False
    users: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    to: str | None = None
