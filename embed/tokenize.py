"""Conversations to token ids, in batches, into a file: texts and tokens do not stay in memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from ..cache.schema import KEY_DTYPE, sequence_key
from .chat import Conversation, OverlongError, Renderer, TemplateError
from .sequences import prompt_group
from .sources.pair import DataError

BATCH = 2048
TOKEN_DTYPE = np.dtype("<i4")

# How the reason of a refusal begins where a conversation is too long.
OVERLONG = "overlong"


class TokenFile:
    """Token ids of numbered conversations, one after the other in a file of int32.

    A conversation that the template refuses or that is too long has no tokens and an entry in
    ``refusals``. In memory each conversation takes 32 bytes. Use it as a context manager: the file
    is closed whatever happens.
    """

    def __init__(self, path: Path, renderer: Renderer) -> None:
        self.path = path
        self.renderer = renderer
        self.refusals: dict[int, str] = {}
        self.shortened = 0
        self._lengths = array("q")
        self._groups = array("Q")
        self._keys = bytearray()
        self._waiting: list[Conversation] = []
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, conversations: Sequence[Conversation]) -> None:
        """Number the conversations on and tokenise whole batches of them.

        Raises ``DataError`` under ``backbone.overlong=error``.
        """
        self._waiting += conversations
        while len(self._waiting) >= BATCH:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._tokenize(batch)

    def close(self) -> None:
        """Tokenise what is waiting and close the file."""
        if self._waiting:
            self._tokenize(self._waiting)
        self._waiting = []
        self._file.close()

    @property
    def lengths(self) -> np.ndarray:
        """(n,) tokens per conversation, 0 for a refused one."""
        return np.array(self._lengths, np.int64)

    @property
    def groups(self) -> np.ndarray:
        """(n,) hashes of prompt and wish."""
        return np.array(self._groups, np.uint64)

    @property
    def keys(self) -> np.ndarray:
        """(n,) keys of the token sequences; zero bytes for a refused one."""
        return np.frombuffer(bytes(self._keys), KEY_DTYPE)

    def _tokenize(self, batch: Sequence[Conversation]) -> None:
        pieces = []
        for conversation, ids in zip(batch, self._token_ids(batch), strict=True):
            fitted = None if ids is None else self._fit(conversation, ids)
            self._groups.append(prompt_group(conversation))
            if fitted is None:
                self._lengths.append(0)
                self._keys += bytes(KEY_DTYPE.itemsize)
                continue
            self._lengths.append(len(fitted))
            self._keys += sequence_key(fitted)
            pieces.append(fitted)
        if pieces:
            np.concatenate(pieces).astype(TOKEN_DTYPE).tofile(self._file)

    def _fit(self, conversation: Conversation, ids: np.ndarray) -> np.ndarray | None:
        if not len(ids):
            self.refusals[len(self._lengths)] = "nothing is left of it as tokens"
            return None
        try:
            fitted = self.renderer.fit(conversation, ids)
        except OverlongError as error:
            if self.renderer.config.overlong == "error":
                raise DataError(
                    f"a sequence is too long: {error}; raise backbone.max_length or set "
                    "backbone.overlong to drop or truncate_prompt"
                ) from error
            self.refusals[len(self._lengths)] = f"{OVERLONG}: {error}"
            return None
        self.shortened += len(fitted) < len(ids)
        return fitted

    def _token_ids(self, batch: Sequence[Conversation]) -> list[np.ndarray | None]:
        """Token ids of a batch at once; one by one only if the template refuses some of them."""
        try:
            return list(self.renderer.token_ids(batch))
        except TemplateError:
            ids: list[np.ndarray | None] = []
            for place, conversation in enumerate(batch, start=len(self._lengths)):
                try:
                    ids.append(self.renderer.token_ids([conversation])[0])
                except TemplateError as error:
                    self.refusals[place] = f"the chat template refuses it: {error}"
                    ids.append(None)
            return ids
