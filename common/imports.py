"""Imports of large libraries without looking for garbage in what they leave behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Import in the body what stays until the process ends: torch, transformers, jax.

    Importing them makes hundreds of thousands of objects, none of which is garbage. Looking through
    them again and again, then and at the end of the process, takes a fifth of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
