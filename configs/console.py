"""What a command prints: one console; nothing is taken for markup, a command or a secret."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .secrets import redact, visible

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
        console.print(_Harmless(visible(redact(shown)) if text else shown), soft_wrap=text)

    return say


def printable(error: BaseException) -> str:
    """An error's message for a terminal: control characters spelled out, secrets left out."""
    return visible(redact(str(error)))


class _Harmless:
    """Something to print whose texts may hold control characters, which a terminal would obey."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def indented(value: dict[str, Any], indent: str = "") -> str:
    """A nested description as indented lines."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}", indented(item, indent + "  ")] if item else []
        else:
            lines.append(f"{indent}{key:<{max(1, 22 - len(indent))}} {item}")
    return "\n".join(lines)
