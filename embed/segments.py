"""Tokenise rendered conversations, with each segment between special tokens tokenised only once.

A tokenizer first splits a text at its special tokens and then treats the segments independently.
The prompt that the sequences of a pair share, and the headers that all sequences share, are
therefore tokenised once per batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Texts for which the result is compared with that of the whole text.
CHECKED_TEXTS = 32


class SegmentTokenizer:
    """Tokenises rendered texts by segment, without adding special tokens.

    Texts are split only at special tokens at which the tokenizer itself splits regardless of what
    surrounds them. For the first ``CHECKED_TEXTS`` texts the result is compared with that of the
    whole texts; if it ever differs, or if the tokenizer treats the first segment of a text
    differently, all texts are tokenised whole.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer = tokenizer
        self._cut_ids = {} if self._backend is None else _cut_tokens(tokenizer)
        self._to_check = CHECKED_TEXTS

    @property
    def cuts(self) -> bool:
        """Whether texts are split at special tokens."""
        return bool(self._cut_ids)

    def token_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text."""
        if not self.cuts:
            return self._whole(texts)
        # Longer tokens first, because one may be a prefix of another.
        names = sorted(self._cut_ids, key=len, reverse=True)
        pattern = re.compile(f"({'|'.join(map(re.escape, names))})")
        segments = [[part for part in pattern.split(text) if part] for text in texts]
        ids_of = {name: np.array([token_id], np.int32) for name, token_id in self._cut_ids.items()}
        new = list(
            dict.fromkeys(part for parts in segments for part in parts if part not in ids_of)
        )
        ids_of |= zip(new, self._whole(new), strict=True)
        empty = np.empty(0, np.int32)  # the ids of a text without segments
        ids = [np.concatenate([empty, *(ids_of[part] for part in parts)]) for parts in segments]
        sample = self._whole(texts[: self._to_check])
        self._to_check -= len(sample)
        if not all(map(np.array_equal, ids, sample)):
            self._cut_ids = {}
            return self._whole(texts)
        return ids

    def _whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, np.int32) for encoding in encodings]
        ids = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(sequence, np.int32) for sequence in ids]


def _cut_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of the added tokens that end a segment regardless of what surrounds them."""
    if '"first"' in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]):
        return {}  # a word at the start of a text is tokenised differently from any other
    return {
        token.content: token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
    }
