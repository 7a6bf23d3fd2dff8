"""Token ids of rendered conversations, each stretch between special tokens tokenised once.

A tokenizer cuts a text at its special tokens before it does anything else, and treats the stretches
one by one. So the prompt that a pair's sequences share, and the headers that all of them share,
need one look only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

CHECKED = 32


class SegmentTokenizer:
    """Token ids (int32) of rendered texts, without special tokens added.

    Texts are cut only at special tokens that the tokenizer itself cuts at, whatever stands beside
    them. On the first texts the result is compared with that of whole texts; if it differs, or if
    the tokenizer treats the first stretch of a text in its own way, texts stay whole.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._tokenizer = tokenizer
        self._cut_ids = {} if self._backend is None else _cut_tokens(tokenizer)
        self._to_check = CHECKED

    @property
    def cuts(self) -> bool:
        """Whether texts are cut at special tokens."""
        return bool(self._cut_ids)

    def token_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids per text."""
        if not self.cuts:
            return self._whole(texts)
        # Longer tokens first: one may begin like another.
        names = sorted(self._cut_ids, key=len, reverse=True)
        pattern = re.compile(f"({'|'.join(map(re.escape, names))})")
        pieces = [[part for part in pattern.split(text) if part] for text in texts]
        known = {name: np.array([number], np.int32) for name, number in self._cut_ids.items()}
        fresh = list(dict.fromkeys(part for parts in pieces for part in parts if part not in known))
        known |= zip(fresh, self._whole(fresh), strict=True)
        nothing = np.empty(0, np.int32)
        ids = [np.concatenate([nothing, *(known[part] for part in parts)]) for parts in pieces]
        sample = self._whole(texts[: self._to_check])
        self._to_check -= len(sample)
        if not all(map(np.array_equal, ids, sample)):
            self._cut_ids = {}
            return self._whole(texts)
        return ids

    def _whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._backend is not None:
            found = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, np.int32) for encoding in found]
        found = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.array(ids, np.int32) for ids in found]


def _cut_tokens(tokenizer: Any) -> dict[str, int]:
    """Added tokens that end a stretch of text whatever its neighbours are, and their ids."""
    if '"first"' in json.dumps(json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]):
        return {}  # a word at the start of a text is not spelled like one behind a special token
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
    }
