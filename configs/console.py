"""What a command prints: one console, nothing interpreted as markup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[[object], None]


def make_printer(*, quiet: bool) -> Say:
    """Print text and tables to standard output, nothing at all if ``quiet``."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False, quiet=quiet)

    def say(shown: object) -> None:
        # Paths and sentences are left to the terminal to wrap, so that they can be copied whole.
        console.print(shown, soft_wrap=isinstance(shown, str))

    return say


def indented(value: dict[str, Any], indent: str = "") -> str:
    """A nested description as indented lines."""
    lines = []
    for key, item in value.items():
        if isinstance(item, dict):
            lines += [f"{indent}{key}", indented(item, indent + "  ")] if item else []
        else:
            lines.append(f"{indent}{key:<{max(1, 22 - len(indent))}} {item}")
    return "\n".join(lines)
