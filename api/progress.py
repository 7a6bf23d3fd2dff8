"""Progress of long calls: on a terminal or in a notebook, silent elsewhere and on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[int, int, float], None]  # done, total, seconds


def visible_console(progress: bool) -> Console | None:
    """The console that shows progress; None where nobody would see it, or if it is turned off."""
    from rich.console import Console

    console = Console(stderr=True)
    # In a notebook, moving text is a widget.
    seen = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    return console if progress and seen else None


@contextmanager
def working_on(text: str, progress: bool) -> Iterator[None]:
    """A spinner with a text while the body runs."""
    console = visible_console(progress)
    with nullcontext() if console is None else console.status(text):
        yield


@contextmanager
def embedding_tokens(progress: bool) -> Iterator[Advance]:
    """A bar over the tokens of an embedding pass."""
    console = visible_console(progress)
    if console is None:
        yield lambda _done, _total, _seconds: None
        return
    from ..display.embedding import embedding_progress

    with embedding_progress(console) as advance:
        yield advance
