"""Vectors of raw text, each token sequence once: a batch is packed as in the embedding pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ..cache.schema import sequence_key
from ..common.errors import UserError
from ..embed.chat import Conversation, OverlongError
from ..embed.encoder import Encoder


class TextError(UserError):
    """A text cannot be embedded; the message says which and why."""


class TextEncoder:
    """An encoder with a memory: the least recently used of ``room`` vectors are forgotten.

    ``hits`` and ``misses`` count sequences. Not to be called from several threads at once.
    """

    def __init__(self, encoder: Encoder, room: int = 10_000) -> None:
        self.encoder = encoder
        self.room = room
        self.hits = self.misses = 0
        self._known: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def vectors(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """(N, D) float32 vectors of conversations, in order.

        Raises ``TextError`` for one that is empty as tokens, too long or refused by the template.
        """
        sequences = self._token_ids(conversations)
        keys = [sequence_key(ids) for ids in sequences]
        wanted = {key: ids for key, ids in zip(keys, sequences, strict=True)}
        fresh = {key: ids for key, ids in wanted.items() if key not in self._known}
        self.hits += len(wanted) - len(fresh)
        self.misses += len(fresh)
        found = {key: self._known[key] for key in wanted if key in self._known}
        found |= self._embed(fresh)
        for key, vector_D in found.items():
            self._known[key] = vector_D
            self._known.move_to_end(key)
        while len(self._known) > self.room:
            self._known.popitem(last=False)
        width = self.encoder.backbone.width
        return np.stack([found[key] for key in keys]) if keys else np.zeros((0, width), np.float32)

    def _embed(self, fresh: dict[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        backbone = self.encoder.backbone
        keys, sequences = list(fresh), list(fresh.values())
        found: dict[bytes, np.ndarray] = {}
        if not keys:
            return found
        for made in backbone.pack(sequences, backbone.bin_tokens):
            vectors = backbone.vectors([sequences[place] for place in made.members])
            for place, vector_D in zip(made.members, vectors, strict=True):
                vector_D = vector_D.astype(np.float32)
                if not np.isfinite(vector_D).all():
                    raise TextError(
                        f"the backbone gives NaN or infinity for a text of {len(sequences[place])} "
                        "tokens; try backbone.dtype=float32"
                    )
                found[keys[place]] = vector_D
        return found

    def _token_ids(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        from jinja2 import TemplateError

        renderer, found = self.encoder.renderer, []
        for place, conversation in enumerate(conversations):
            try:
                ids = renderer.fit(conversation, renderer.token_ids([conversation])[0])
            except OverlongError as error:
                raise TextError(f"text {place}: too long ({error}); shorten it") from error
            except TemplateError as error:
                raise TextError(f"text {place}: the chat template refuses it ({error})") from error
            if not len(ids):
                raise TextError(f"text {place}: nothing is left of it as tokens")
            found.append(ids)
        return found
