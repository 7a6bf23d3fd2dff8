"""Terminal output of the commands: no markup is interpreted, no control code or secret printed."""

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
    """Make a function that prints text and rich tables to standard output.

    Secrets in text are redacted, control characters escaped. Nothing is printed if ``quiet``.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, quiet=quiet)

    def say(value: Any) -> None:
        text = isinstance(value, str)
        harmless = _Sanitized(escape_controls(redact(value)) if text else value)
        # Text is left to the terminal to wrap, so that paths can be copied whole.
        console.print(harmless, soft_wrap=text)

    return say


def say_all(say: Say, lines: Iterable[object]) -> None:
    """Print several lines or tables, one after another."""
    for line in lines:
        say(line)


def printable(error: BaseException) -> str:
    """Message of an error for a terminal: secrets redacted, control characters escaped."""
    return escape_controls(redact(str(error)))


class _Sanitized:
    """Wraps a rich renderable and escapes the control characters in its text.

    A terminal would obey them, and the text may come from data or file names.
    """

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
    """Show a spinner on standard error while the body runs.

    Does nothing unless both standard error and standard output are terminals: the spinner would
    break up lines that are printed into a file.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or not sys.stdout.isatty():
        yield
        return
    with console.status(text):
        yield
