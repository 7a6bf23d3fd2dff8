"""The error for a wrong setting, and the one way to raise it."""

from __future__ import annotations

from .. import UserError


class ConfigError(UserError):
    """A setting is unknown, missing or out of range; the message names it and says what to do."""


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise a ``ConfigError`` that names the key, what was expected and what was found."""
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}")
