"""Which sequences a data set needs: views and roles per pair, each conversation once (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..cache.pairs import NO_ROW
from ..configs.schema import ViewsConfig
from .chat import Conversation
from .sources.pair import Message, PreferencePair, hash_fraction


@dataclass(frozen=True)
class SequencePlan:
    """Distinct conversations, and per ``view/role`` an (N,) index into them or ``NO_ROW``."""

    conversations: list[Conversation]
    index: dict[str, np.ndarray]


def choose_pool(pairs: Sequence[PreferencePair], size: int, group: str) -> np.ndarray:
    """(N,) mask of the training rows that stage 2 may draw from: ``size`` per attribute or user.

    The choice depends on each pair's content only, so new rows do not reshuffle it. Rows that
    belong to no group are never in the pool, and where a group states any wish, rows without one
    come last.
    """
    ranked: dict[str, list[tuple[bool, float, int]]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        label = getattr(pair, group)
        if pair.split == "train" and label is not None:
            rank = (not pair.context, hash_fraction("pool", pair.pair_id), place)
            ranked[label].append(rank)
    mask = np.zeros(len(pairs), bool)
    for places in ranked.values():
        mask[[place for *_, place in sorted(places)[:size]]] = True
    return mask


def plan_sequences(
    pairs: Sequence[PreferencePair],
    pool: np.ndarray,
    views: ViewsConfig,
    *,
    equal_prompts: bool = False,
) -> SequencePlan:
    """The conversations that the chosen views need, and where each pair finds its own.

    Training rows need the stage-1 views, pool rows and test rows the stage-2 views. A pair without
    a context reads ``plain`` wherever ``ctx`` or ``context`` is asked for. ``equal_prompts`` keeps
    the prompts of both responses alike where they have to be shortened.
    """
    conversations: list[Conversation] = []
    places: dict[Conversation, int] = {}
    index = {
        f"{view}/{role}": np.full(len(pairs), NO_ROW, np.int64)
        for view, role in sorted(_wanted(views, stage1=True) | _wanted(views, stage1=False))
    }
    for row, pair in enumerate(pairs):
        wanted: set[tuple[str, str]] = set()
        if pair.split == "train":
            wanted |= _wanted(views, stage1=True)
        if pair.split == "test" or pool[row]:
            wanted |= _wanted(views, stage1=False)
        for view, role in wanted:
            conversation = conversation_of(
                pair, view, role, views.form, equal_prompts=equal_prompts
            )
            place = places.setdefault(conversation, len(conversations))
            if place == len(conversations):
                conversations.append(conversation)
            index[f"{view}/{role}"][row] = place
    return SequencePlan(conversations, index)


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


def _wanted(views: ViewsConfig, *, stage1: bool) -> set[tuple[str, str]]:
    head = views.train_head if stage1 else views.adapt_head
    router = views.train_router if stage1 else views.adapt_router
    return {(head, "chosen"), (head, "rejected"), (router, "prompt")}
