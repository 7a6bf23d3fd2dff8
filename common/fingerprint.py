"""Fingerprints of settings and code, which tell whether a stage has to run again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """First 32 hex digits of the sha256 of the parts as JSON, dataclasses as their fields.

    Raises ``TypeError`` for a value that is neither JSON nor a dataclass.

    >>> fingerprint("micro", 1)
    'baf7a66c39126aab10bbb5ff38d0e2b0'
    """

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"cannot fingerprint {type(value).__name__}")

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_fingerprint(part: str) -> str:
    """Fingerprint of the source of one part of the package, such as ``embed`` or ``heads``.

    It belongs to the inputs of a stage: changed code may give another result.
    """
    root = Path(__file__).resolve().parent.parent / part
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2", ".json"))
    return fingerprint([[str(path.relative_to(root)), path.read_text("utf-8")] for path in sources])
