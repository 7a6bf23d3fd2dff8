"""Import large libraries without running the garbage collector over what they create."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def permanent_imports() -> Iterator[None]:
    """Suspend garbage collection while the body imports torch, transformers or jax.

    The imports create hundreds of thousands of objects that live until the process ends. Scanning
    them repeatedly, during the import and at exit, takes a fifth of the time. They are frozen
    afterwards, so that later collections skip them too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
