"""Embedding of raw text, with a cache of vectors; packed as in the embedding pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from ..cache.schema import sequence_key
from ..common.errors import UserError
from ..embed.chat import Conversation, OverlongError
from ..embed.encoder import Encoder


class TextError(UserError):
    """A text cannot be embedded; the message names its index and the reason."""


class TextEncoder:
    """An encoder with an LRU cache of ``capacity`` vectors, keyed by token sequence.

    ``hits`` and ``misses`` count distinct sequences per call. Not thread-safe.
    """

    def __init__(self, encoder: Encoder, capacity: int = 10_000) -> None:
        self.encoder = encoder
        self.capacity = capacity
        self.hits: int = 0
        self.misses: int = 0
        self._cache: OrderedDict[bytes, np.ndarray] = OrderedDict()

    def vectors(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """Embed N conversations as (N, D) float32 vectors, in order.

        Equal token sequences are embedded once. Raises ``TextError`` for a conversation that is too
        long, has no tokens, or is refused by the chat template.
        """
        sequences = self._token_ids(conversations)
        keys = [sequence_key(ids) for ids in sequences]
        distinct = {key: ids for key, ids in zip(keys, sequences, strict=True)}
        missing = {key: ids for key, ids in distinct.items() if key not in self._cache}
        self.hits += len(distinct) - len(missing)
        self.misses += len(missing)
        # Held apart from the cache, which may be smaller than this batch.
        vectors = {key: self._cache[key] for key in distinct if key in self._cache}
        vectors |= self._embed(missing)
        for key, vector_D in vectors.items():
            self._cache[key] = vector_D
            self._cache.move_to_end(key)
        while len(self._cache) > self.capacity:
            self._cache.popitem(last=False)
        if not keys:
            return np.zeros((0, self.encoder.backbone.width), np.float32)
        return np.stack([vectors[key] for key in keys])

    def _embed(self, missing: dict[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
        """Embed sequences, packed into bins; raises ``TextError`` for a non-finite vector."""
        backbone = self.encoder.backbone
        keys, sequences = list(missing), list(missing.values())
        embedded: dict[bytes, np.ndarray] = {}
        if not keys:
            return embedded
        for bin_ in backbone.pack(sequences, backbone.bin_tokens):
            vectors = backbone.vectors([sequences[index] for index in bin_.members])
            for index, vector_D in zip(bin_.members, vectors, strict=True):
                vector_D = vector_D.astype(np.float32)
                if not np.isfinite(vector_D).all():
                    raise TextError(
                        f"the backbone gives NaN or infinity for a text of {len(sequences[index])} "
                        "tokens; try backbone.dtype=float32"
                    )
                embedded[keys[index]] = vector_D
        return embedded

    def _token_ids(self, conversations: Sequence[Conversation]) -> list[np.ndarray]:
        """Render, tokenize and, where configured, truncate each conversation."""
        from jinja2 import TemplateError

        renderer, sequences = self.encoder.renderer, []
        for index, conversation in enumerate(conversations):
            try:
                ids = renderer.fit(conversation, renderer.token_ids([conversation])[0])
            except OverlongError as error:
                raise TextError(f"text {index}: too long ({error}); shorten it") from error
            except TemplateError as error:
                raise TextError(f"text {index}: the chat template refuses it ({error})") from error
            if not len(ids):
                raise TextError(f"text {index}: nothing is left of it as tokens")
            sequences.append(ids)
        return sequences
