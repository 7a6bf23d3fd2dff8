"""What is known of a published data set: where it is, whose it is, what its files look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One table of a data set: a split of the hub, or a file in a directory of local copies.

    ``name`` is the local file's name without ending. ``subset`` is a configuration on the hub,
    ``folder`` a directory there. ``rows`` is None where the number is not known. ``columns`` are
    those that it must have, where they are not those of the data set.
    """

    name: str
    split: str
    rows: int | None
    subset: str | None = None
    folder: str | None = None
    columns: frozenset[str] | None = None


@dataclass(frozen=True)
class Upstream:
    """Where a data set comes from, and its schema when this version was made.

    ``columns`` must all be there, ``optional`` ones may be. Anything else means that upstream has
    changed, unless ``optional`` is None, for tables that hold much else. ``streaming`` is for sets
    that one would rather not keep on disk. ``terms`` says what else one should know before using
    it.
    """

    repo: str
    revision: str
    licence: str
    parts: tuple[Part, ...]
    columns: frozenset[str]
    optional: frozenset[str] | None = frozenset()
    streaming: bool = False
    terms: str = ""

    def part(self, name: str) -> Part:
        """The part of a name."""
        return next(part for part in self.parts if part.name == name)
