"""Which sequences a data set needs: views and roles per pair, each conversation once (pure)."""

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
    """The rows that stage 2 may draw from: ``size`` per attribute or user, never test rows.

    The choice depends on each pair's content only, so new rows do not reshuffle it. Rows that
    belong to no group are never in the pool, and where a group states any wish, rows without one
    come last.
    """

    def __init__(self, size: int, group: str) -> None:
        self.size = size
        self.group = group
        # Per group the best rows so far, the worst of them first.
        self._best: dict[str, list[tuple[bool, float, int]]] = defaultdict(list)

    def add(self, place: int, pair: PreferencePair) -> None:
        """Consider the pair of a row."""
        label = getattr(pair, self.group)
        if pair.split == "test" or label is None or not self.size:
            return
        rank = (bool(pair.context), -hash_fraction("pool", pair.pair_id), -place)
        best = self._best[label]
        if len(best) < self.size:
            heapq.heappush(best, rank)
        else:
            heapq.heappushpop(best, rank)

    def mask(self, rows: int) -> np.ndarray:
        """(rows,) mask of the chosen ones."""
        mask = np.zeros(rows, bool)
        for best in self._best.values():
            mask[[-place for *_, place in best]] = True
        return mask


def choose_pool(pairs: Iterable[PreferencePair], size: int, group: str) -> np.ndarray:
    """(N,) mask of the rows that ``PoolChooser`` takes of N pairs."""
    chooser = PoolChooser(size, group)
    rows = 0
    for place, pair in enumerate(pairs):
        chooser.add(place, pair)
        rows = place + 1
    return chooser.mask(rows)


class SequenceIndex:
    """Where each pair finds the conversations that its views need; each conversation is kept once.

    Training rows need the stage-1 views, pool rows and test rows the stage-2 views. A pair without
    a context reads ``plain`` wherever ``ctx`` or ``context`` is asked for. ``equal_prompts`` keeps
    the prompts of both responses alike where they have to be shortened. Of a conversation only a
    16-byte digest stays in memory.
    """

    def __init__(self, views: ViewsConfig, *, equal_prompts: bool = False) -> None:
        self.form = views.form
        self.equal_prompts = equal_prompts
        self._stages = (_wanted(views, stage1=True), _wanted(views, stage1=False))
        self._columns = {
            f"{view}/{role}": array("q") for view, role in sorted(set().union(*self._stages))
        }
        self._places: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, pair: PreferencePair, *, in_pool: bool) -> list[Conversation]:
        """Enter the next pair; the conversations that it is the first to need, in order."""
        stage1, stage2 = self._stages
        wanted: set[tuple[str, str]] = set()
        if pair.split == "train":
            wanted |= stage1
        if pair.split == "test" or in_pool:
            wanted |= stage2
        fresh: list[Conversation] = []
        for name, column in self._columns.items():
            view, _, role = name.partition("/")
            if (view, role) not in wanted:
                column.append(NO_ROW)
                continue
            conversation = conversation_of(
                pair, view, role, self.form, equal_prompts=self.equal_prompts
            )
            digest = xxhash.xxh3_128_digest(repr(conversation).encode())
            place = self._places.get(digest)
            if place is None:
                place = self._places[digest] = len(self._places)
                fresh.append(conversation)
            column.append(place)
        return fresh

    def columns(self) -> dict[str, np.ndarray]:
        """Per ``view/role`` an (N,) index into the conversations, or ``NO_ROW``."""
        return {name: np.array(column, np.int64) for name, column in self._columns.items()}


def conversation_of(
    pair: PreferencePair, view: str, role: str, form: str, *, equal_prompts: bool
) -> Conversation:
    """What the backbone reads for one role of a pair in one view."""
    if view == "context" and pair.context:
        return Conversation((Message("user", pair.context),))
    sides = {"prompt": (None, None), "chosen": (pair.chosen, pair.rejected)}
    response, rival = sides.get(role, (pair.rejected, pair.chosen))
    return Conversation(
        prompt=pair.prompt,
        response=response,
        wish=pair.context if view == "ctx" else None,
        form=form,
        rival=rival if equal_prompts else None,
    )


def prompt_group(conversation: Conversation) -> int:
    """64 bits that conversations with the same prompt and wish have in common."""
    return xxhash.xxh3_64_intdigest(
        repr((conversation.prompt, conversation.wish, conversation.form)).encode()
    )


def _wanted(views: ViewsConfig, *, stage1: bool) -> set[tuple[str, str]]:
    head = views.train_head if stage1 else views.adapt_head
    router = views.train_router if stage1 else views.adapt_router
    return {(head, "chosen"), (head, "rejected"), (router, "prompt")}
