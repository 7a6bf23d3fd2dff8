"""Which conversations a data set needs, by view and role of each pair.

This module is pure.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import xxhash

from ..cache.pairs import NO_ROW
from ..configs.schema import ViewsConfig
from .chat import Conversation
from .sources.pair import Message, PreferencePair, hash_fraction


class PoolChooser:
    """Chooses the stage-2 pool: ``size`` rows per attribute or user, without test rows.

    The choice depends only on the contents of the pairs, so new rows do not reshuffle it. Rows
    without a group are never chosen, and rows without a context only after all rows with one.

    Args:
        size: Rows per group.
        group: The field of a pair that defines its group, "attribute" or "user".
    """

    def __init__(self, size: int, group: str) -> None:
        self.size = size
        self.group = group
        # Per group a heap of the best rows so far, with the worst one on top.
        self._best: dict[str, list[tuple[bool, float, int]]] = defaultdict(list)

    def add(self, row: int, pair: PreferencePair) -> None:
        """Consider a pair for the pool."""
        label = getattr(pair, self.group)
        if pair.split == "test" or label is None or not self.size:
            return
        rank = (bool(pair.context), -hash_fraction("pool", pair.pair_id), -row)
        best = self._best[label]
        if len(best) < self.size:
            heapq.heappush(best, rank)
        else:
            heapq.heappushpop(best, rank)

    def mask(self, rows: int) -> np.ndarray:
        """(rows,) mask of the chosen rows."""
        mask = np.zeros(rows, bool)
        for best in self._best.values():
            mask[[-row for *_, row in best]] = True
        return mask


def choose_pool(pairs: Iterable[PreferencePair], size: int, group: str) -> np.ndarray:
    """(N,) mask of the stage-2 pool among N pairs; see ``PoolChooser``."""
    chooser = PoolChooser(size, group)
    rows = 0
    for row, pair in enumerate(pairs):
        chooser.add(row, pair)
        rows = row + 1
    return chooser.mask(rows)


class ConversationIndex:
    """Numbers the distinct conversations of a data set, and records which ones each pair needs.

    Training rows need the stage-1 views; pool rows and test rows need the stage-2 views. A pair
    without a context uses the view ``plain`` in place of ``ctx`` and ``context``. Memory holds only
    a 16-byte digest of each conversation.

    Args:
        views: The views of heads and router in both stages.
        equal_prompts: Whether both responses of a pair get the same prompt where it is shortened.
    """

    def __init__(self, views: ViewsConfig, *, equal_prompts: bool = False) -> None:
        self.form = views.form
        self.equal_prompts = equal_prompts
        self._stages = (_views_and_roles(views, stage1=True), _views_and_roles(views, stage1=False))
        self._columns = {
            f"{view}/{role}": array("q") for view, role in sorted(set().union(*self._stages))
        }
        self._indices: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._indices)

    def add(self, pair: PreferencePair, *, in_pool: bool) -> list[Conversation]:
        """Add the next pair; returns its new conversations, in the order of their indices."""
        stage1, stage2 = self._stages
        needed: set[tuple[str, str]] = set()
        if pair.split == "train":
            needed |= stage1
        if pair.split == "test" or in_pool:
            needed |= stage2
        new: list[Conversation] = []
        for name, column in self._columns.items():
            view, _, role = name.partition("/")
            if (view, role) not in needed:
                column.append(NO_ROW)
                continue
            conversation = conversation_of(
                pair, view, role, self.form, equal_prompts=self.equal_prompts
            )
            digest = xxhash.xxh3_128_digest(repr(conversation).encode())
            index = self._indices.get(digest)
            if index is None:
                index = self._indices[digest] = len(self._indices)
                new.append(conversation)
            column.append(index)
        return new

    def columns(self) -> dict[str, np.ndarray]:
        """(N,) indices of conversations per ``view/role``; ``NO_ROW`` where a pair needs none."""
        return {name: np.array(column, np.int64) for name, column in self._columns.items()}


def conversation_of(
    pair: PreferencePair, view: str, role: str, form: str, *, equal_prompts: bool
) -> Conversation:
    """The conversation that the backbone reads for one view and role of a pair.

    Args:
        pair: The pair.
        view: "plain" (the prompt), "ctx" (prompt and context) or "context" (the context alone). A
            pair without a context is read as "plain".
        role: "prompt", "chosen" or "rejected".
        form: How the context enters the prompt, a key of ``chat.FORMS``.
        equal_prompts: Whether both responses get the same prompt where it is shortened.
    """
    if view == "context" and pair.context:
        return Conversation((Message("user", pair.context),))
    sides = {"prompt": (None, None), "chosen": (pair.chosen, pair.rejected)}
    response, rival = sides.get(role, (pair.rejected, pair.chosen))
    return Conversation(
        prompt=pair.prompt,
        response=response,
        context=pair.context if view == "ctx" else None,
        form=form,
        rival=rival if equal_prompts else None,
    )


def prompt_group(conversation: Conversation) -> int:
    """64-bit hash of prompt and context, by which conversations that share them are grouped."""
    return xxhash.xxh3_64_intdigest(
        repr((conversation.prompt, conversation.context, conversation.form)).encode()
    )


def _views_and_roles(views: ViewsConfig, *, stage1: bool) -> set[tuple[str, str]]:
    """The views and roles that a stage needs: both responses for heads, prompts for the router."""
    head = views.train_head if stage1 else views.adapt_head
    router = views.train_router if stage1 else views.adapt_router
    return {(head, "chosen"), (head, "rejected"), (router, "prompt")}
