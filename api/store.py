"""Stores of embedded vectors and the pair tables that point into them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..cache.pairs import NO_ROW, PairTable, read_pairs, table_names
from ..cache.reader import FeatureStore
from ..cache.schema import Identity, StoreError
from ..common.errors import require

if TYPE_CHECKING:
    import pandas as pd

View = Literal["plain", "ctx", "context"]
Split = Literal["train", "test", "all"]
LABELS = ("pair_id", "prompt_id", "attribute", "context", "user", "split")


class PairArrays(NamedTuple):
    """N pairs as arrays; row n of each belongs to the same pair.

    Vectors are float32. ``attribute_N`` and ``user_N`` are strings, empty where a pair has none.
    ``row_N`` are the rows of the table.
    """

    chosen_NxD: np.ndarray
    rejected_NxD: np.ndarray
    prompt_NxD: np.ndarray
    attribute_N: np.ndarray
    user_N: np.ndarray
    row_N: np.ndarray

    def __repr__(self) -> str:
        shapes = (f"{name} {array.shape} {array.dtype}" for name, array in self._asdict().items())
        return f"PairArrays({len(self.row_N):,} pairs)\n  " + "\n  ".join(shapes)

    @property
    def X(self) -> np.ndarray:
        """(N, 3, D): chosen, rejected and prompt of each pair, as ``MixtureRewards`` takes them."""
        return np.stack([self.chosen_NxD, self.rejected_NxD, self.prompt_NxD], axis=1)


class Store:
    """A store of embedded vectors: every distinct token sequence once, in HDF5 shards.

    Args:
        dir: Directory of the store.

    Raises:
        StoreError: There is no store, or it is damaged.
    """

    def __init__(self, dir: str | Path) -> None:
        self.dir: Path = Path(dir)
        self._reader: FeatureStore = FeatureStore(self.dir)

    @property
    def identity(self) -> Identity:
        """Everything that determines a vector: backbone, tokenizer, template, read-out, type."""
        return self._reader.manifest.identity

    @property
    def width(self) -> int:
        """D, numbers per vector."""
        return self._reader.width

    @property
    def tables(self) -> list[str]:
        """Names of the pair tables."""
        return table_names(self.dir)

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self._reader)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, (len(rows), D), in the type in which they are stored."""
        return self._reader.vectors(np.asarray(rows))

    def table(self, name: str | None = None) -> Table:
        """The pair table of a data set; the only one if no name is given.

        Raises:
            StoreError: There is no such table; the message lists those that there are.
        """
        if name is None:
            names = self.tables
            if len(names) != 1:
                raise StoreError(f"{self.dir}: name one of its pair tables: {', '.join(names)}")
            name = names[0]
        return Table(self, read_pairs(self.dir, name))

    def __repr__(self) -> str:
        identity = self.identity
        tables = ", ".join(self.tables) or "none"
        return (
            f"Store({str(self.dir)!r}): {len(self):,} vectors of {self.width} numbers\n"
            f"  backbone {identity.backbone}, {identity.pooling} read-out, {identity.dtype}\n"
            f"  tables   {tables}"
        )


@dataclass(frozen=True, repr=False, eq=False)
class Table:
    """Preference pairs of one data set: labels and texts in memory, vectors on demand.

    ``Store.table`` opens one.
    """

    store: Store
    pairs: PairTable

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.pairs.name

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    @cached_property
    def split_N(self) -> np.ndarray:
        """(N,) strings, train or test."""
        return np.asarray(self.pairs.text["split"])

    @property
    def attributes(self) -> list[str]:
        """Distinct attributes, in the order of the table."""
        return [name for name in dict.fromkeys(self.pairs.text["attribute"]) if name]

    @property
    def users(self) -> list[str]:
        """Distinct people, in the order of the table."""
        return [name for name in dict.fromkeys(self.pairs.text["user"]) if name]

    @property
    def views(self) -> list[str]:
        """Views that the responses were embedded in: plain, or ctx with the context."""
        roles = [key.split("/") for key in self.pairs.rows]
        return list(dict.fromkeys(view for view, role in roles if role == "chosen"))

    def arrays(
        self,
        split: Split = "train",
        view: View = "plain",
        prompt_view: View | None = None,
        *,
        missing: Literal["error", "skip"] = "error",
    ) -> PairArrays:
        """Vectors and labels of all pairs of a split, in one call.

        Args:
            split: Pairs to read: train, test or all of them.
            view: What the backbone read of each response: plain, or ctx with the context in front.
            prompt_view: What it read of each prompt, for routing: plain, ctx, or context alone; by
                default the same as ``view``.
            missing: What happens to pairs that were not embedded in a view, such as ctx for a pair
                without a context: an error, or they are skipped.

        Raises:
            StoreError: A view is missing, for all pairs or (``missing="error"``) for some.
        """
        from ..heads.features import Features

        require(split in ("train", "test", "all"), "split", "train, test or all", split)
        prompt_view = prompt_view or view
        rows = np.arange(len(self)) if split == "all" else np.flatnonzero(self.split_N == split)
        features = Features(self.store._reader, self.pairs)
        embedded = self._embedded(rows, view, prompt_view)
        if missing == "skip":
            rows = rows[embedded]
        elif not embedded.all():
            lacking = rows.size - int(embedded.sum())
            raise StoreError(
                f"{self.store.dir}: {lacking:,} of {rows.size:,} pairs ({split}) of "
                f"{self.name!r} were not embedded as {view}/{prompt_view} (responses/prompts); "
                "choose other views (pairs with a context have ctx, those of training plain too), "
                'or leave such pairs out with missing="skip"'
            )
        chosen, rejected = features.sides(rows, view)
        prompt = features.stored(rows, prompt_view, "prompt").astype(np.float32)
        text = {name: np.asarray(self.pairs.text[name])[rows] for name in ("attribute", "user")}
        return PairArrays(chosen, rejected, prompt, text["attribute"], text["user"], rows)

    def _embedded(self, rows: np.ndarray, view: str, prompt_view: str) -> np.ndarray:
        """Mask of rows that have a vector in every role asked for."""
        mask = np.ones(rows.size, bool)
        for key in (f"{view}/chosen", f"{view}/rejected", f"{prompt_view}/prompt"):
            if key not in self.pairs.rows:
                raise StoreError(
                    f"{self.store.dir}: pair table {self.name!r} has no {key} vectors; it has "
                    f"{', '.join(self.pairs.rows)}"
                )
            mask &= self.pairs.rows[key][rows] != NO_ROW
        return mask

    def frame(self) -> pd.DataFrame:
        """Labels and texts of every pair as a pandas data frame. Needs pandas."""
        from .frames import frame

        return frame({name: list(self.pairs.text[name]) for name in self.pairs.text})

    def __repr__(self) -> str:
        train = int((self.split_N == "train").sum())
        test = len(self) - train
        lines = [
            f"Table({self.name!r}): {len(self):,} pairs, {train:,} train, {test:,} test",
            f"  views      {', '.join(self.views)}",
        ]
        for label, names in (("attributes", self.attributes), ("users", self.users)):
            if names:
                shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
                lines.append(f"  {label:<10} {len(names)}: {shown}")
        refused = self.pairs.account.get("refused", 0)
        if refused:
            lines.append(f"  refused    {refused:,} rows or pairs; see the store's quarantine")
        return "\n".join(lines)
