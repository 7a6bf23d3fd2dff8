"""Description of a published data set: location, licence and schema."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One table of a data set: a split on the hub, or a file in a directory of local copies.

    Attributes:
        name: Name of the local file without its suffix.
        split: Split on the hub.
        rows: Number of rows, None if unknown.
        subset: Configuration of the data set on the hub, if it has several.
        folder: Directory on the hub, if its data are in several.
        columns: Required columns, if they differ from those of the data set.
    """

    name: str
    split: str
    rows: int | None
    subset: str | None = None
    folder: str | None = None
    columns: frozenset[str] | None = None


@dataclass(frozen=True)
class Upstream:
    """Location, licence and schema of a data set, as of when this version was written.

    Attributes:
        repo: Repository on the hub, owner/name.
        revision: Commit that is read by default.
        licence: Licence of the data.
        parts: Tables of the data set.
        columns: Required columns.
        optional: Columns that may be present. Any other means that upstream has changed; None
            allows all, for tables with many more columns.
        streaming: Read over the network by default instead of keeping a copy on disk.
        terms: Further terms of use, or warnings about the content.
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
        """The table with a name."""
        return next(part for part in self.parts if part.name == name)
