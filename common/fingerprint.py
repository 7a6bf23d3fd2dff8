"""Fingerprints of settings and of code, by which a stage is known to be done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def fingerprint(*parts: Any) -> str:
    """32 hex digits of sha256 over the parts as JSON; dataclasses count by their fields."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"cannot fingerprint {type(value).__name__}")

    text = json.dumps(parts, default=plain, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def code_fingerprint(part: str) -> str:
    """Fingerprint of the source of one part of the package (``embed``, ``heads``).

    A stage is done only if the code that would run is the code that ran.
    """
    root = Path(__file__).resolve().parent.parent / part
    sources = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2", ".json"))
    return fingerprint([[str(path.relative_to(root)), path.read_text("utf-8")] for path in sources])
