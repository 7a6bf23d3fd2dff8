"""The errors that micro_rm raises on purpose, and the one way to refuse a setting."""

from __future__ import annotations

from .redact import redact


class UserError(Exception):
    """An error that the user can put right; the message says what, where and how.

    Every error that micro_rm raises on purpose is one of these. Secrets in its text, such as a
    token in a message that a hub or a library produced, are redacted.
    """

    def __str__(self) -> str:
        return redact(super().__str__())


class ConfigError(UserError):
    """A setting is unknown, missing or out of range; the message names it and says what to do."""


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise a ``ConfigError`` that names the key, what was expected and what was found.

    Example:
        >>> require(3 <= 2, "train.num_heads", "2 or less", 3)
        Traceback (most recent call last):
        micro_rm.common.errors.ConfigError: train.num_heads: expected 2 or less, found 3
    """
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}")
