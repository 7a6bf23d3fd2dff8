"""Write files atomically: readers, and a restart after a crash, see the old content or the new."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace a text file (UTF-8) atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, "utf-8")
    commit_file(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically. Raises ``ValueError`` for NaN or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def commit_file(temporary: Path, final: Path) -> None:
    """Sync a finished file, rename it to its final name, and sync the directory entry."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, final)
    sync_directory(final.parent)


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that files created or removed in it survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
