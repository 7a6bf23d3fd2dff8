"""Tokenise conversations in batches into a file; neither texts nor tokens stay in memory."""

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

# Prefix of the reason why a conversation that is too long is refused.
OVERLONG = "overlong"


class TokenFile:
    """A file with the token ids (int32) of conversations, concatenated in the order of addition.

    A conversation that is too long, or that the template refuses, has no tokens and an entry in
    ``refusals``. Each conversation takes 32 bytes of memory. Use it as a context manager, which
    closes the file.

    Attributes:
        path: The file.
        renderer: Turns conversations into token ids.
        refusals: Why a conversation was refused, by its index.
        shortened: Number of conversations that were truncated.
    """

    def __init__(self, path: Path, renderer: Renderer) -> None:
        self.path = path
        self.renderer = renderer
        self.refusals: dict[int, str] = {}
        self.shortened = 0
        self._lengths = array("q")
        self._groups = array("Q")
        self._keys = bytearray()
        self._pending: list[Conversation] = []
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def add(self, conversations: Sequence[Conversation]) -> None:
        """Append conversations, which are tokenised in batches of ``BATCH``.

        Raises ``DataError`` if one is too long and ``backbone.overlong`` is "error".
        """
        self._pending += conversations
        while len(self._pending) >= BATCH:
            batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
            self._tokenize(batch)

    def close(self) -> None:
        """Tokenise what is pending and close the file."""
        if self._pending:
            self._tokenize(self._pending)
        self._pending = []
        self._file.close()

    @property
    def lengths(self) -> np.ndarray:
        """(n,) length of each conversation in tokens, 0 for a refused one."""
        return np.array(self._lengths, np.int64)

    @property
    def groups(self) -> np.ndarray:
        """(n,) hash of each conversation's prompt and context (``prompt_group``)."""
        return np.array(self._groups, np.uint64)

    @property
    def keys(self) -> np.ndarray:
        """(n,) key of each token sequence; zero bytes for a refused one."""
        return np.frombuffer(bytes(self._keys), KEY_DTYPE)

    def _tokenize(self, batch: Sequence[Conversation]) -> None:
        sequences = []
        for conversation, ids in zip(batch, self._token_ids(batch), strict=True):
            fitted = None if ids is None else self._fit(conversation, ids)
            self._groups.append(prompt_group(conversation))
            if fitted is None:
                self._lengths.append(0)
                self._keys += bytes(KEY_DTYPE.itemsize)
                continue
            self._lengths.append(len(fitted))
            self._keys += sequence_key(fitted)
            sequences.append(fitted)
        if sequences:
            np.concatenate(sequences).astype(TOKEN_DTYPE).tofile(self._file)

    def _fit(self, conversation: Conversation, ids: np.ndarray) -> np.ndarray | None:
        """Apply the policy for overlong rows; None, and a refusal, if nothing is left."""
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
        """Token ids of a batch, None for conversations that the template refuses.

        The batch is tokenised at once; only if that fails, one by one to find which are refused.
        """
        try:
            return list(self.renderer.token_ids(batch))
        except TemplateError:
            ids: list[np.ndarray | None] = []
            for index, conversation in enumerate(batch, start=len(self._lengths)):
                try:
                    ids.append(self.renderer.token_ids([conversation])[0])
                except TemplateError as error:
                    self.refusals[index] = f"the chat template refuses it: {error}"
                    ids.append(None)
            return ids
