"""What is done with a store as a whole: made sound again, cleared up, copied, rows deleted."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class UpkeepConfig:
    """Settings of micro-rm verify, gc, copy and delete.

    Attributes:
        rebuild: Let verify make the manifest anew from the shards; what is damaged is set aside.
        yes: Let gc and delete change the store without asking.
        users: Users whose rows delete removes.
        pairs: Ids of pairs that delete removes.
        to: Directory that copy makes.
    """

    rebuild: bool = False
    yes: bool = False
    users: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    to: str | None = None
