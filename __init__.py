"""Reward models for different people: mixture heads and routing from cached features.

Importing this package loads neither torch nor jax; the parts do, when they are used.
"""

from __future__ import annotations

__version__ = "0.2.0"


class UserError(Exception):
    """Something that the user can put right; the message says what, where and how.

    Every error that micro_rm raises on purpose is one of these. Its text holds no secrets: what
    others said in it (a hub, a library) is redacted.
    """

    def __str__(self) -> str:
        from .configs.secrets import redact

        return redact(super().__str__())


__all__ = ["UserError", "__version__"]
