"""What a command prints: one console; nothing is taken for markup, a command or a secret."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .redact import escape_controls, redact

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

Say = Callable[[object], None]


def make_printer(*, quiet: bool) -> Say:
    """Print text and tables to standard output, nothing at all if ``quiet``."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, quiet=quiet)

    def say(shown: Any) -> None:
        # Paths and sentences are left to the terminal to wrap, so that they can be copied whole.
        text = isinstance(shown, str)
        console.print(_Harmless(escape_controls(redact(shown)) if text else shown), soft_wrap=text)

    return say


def say_all(say: Say, lines: Iterable[object]) -> None:
    """Print one after another."""
    for line in lines:
        say(line)


def printable(error: BaseException) -> str:
    """An error's message for a terminal: control characters spelled out, secrets left out."""
    return escape_controls(redact(str(error)))


class _Harmless:
    """Something to print whose texts may hold control characters, which a terminal would obey."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self.inner, options):
            yield (
                segment
                if segment.control
                else Segment(escape_controls(segment.text), segment.style)
            )


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """A turning sign on standard error while something takes its time, on a terminal only."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or not sys.stdout.isatty():  # or lines of a file would be torn
        yield
        return
    with console.status(text):
        yield
