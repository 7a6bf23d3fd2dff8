"""The exceptions that micro_rm raises on purpose, and the check for settings."""

from __future__ import annotations

from .redact import redact


class UserError(Exception):
    """Base class of all exceptions that micro_rm raises on purpose: the user can fix the cause.

    The message says what is wrong, where, and what to do. Secrets in it, such as a token in the
    message of a library, are redacted.
    """

    def __str__(self) -> str:
        return redact(super().__str__())


class ConfigError(UserError):
    """A setting is unknown, missing or out of range; the message names it and says what to do."""


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise ``ConfigError`` unless ``condition`` holds.

    Args:
        condition: Whether the setting is valid.
        key: Dotted name of the setting.
        expected: What would be valid, in words.
        found: The value that was given.

    Example:
        >>> require(3 <= 2, "train.num_heads", "2 or less", 3)
        Traceback (most recent call last):
        micro_rm.common.errors.ConfigError: train.num_heads: expected 2 or less, found 3
    """
    if not condition:
        raise ConfigError(f"{key}: expected {expected}, found {found!r}")
