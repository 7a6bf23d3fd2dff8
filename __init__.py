"""Reward models for different people: mixture heads and routing from cached features.

Importing this package loads neither torch nor jax; the parts do, when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .serve.model import Model

__version__ = "0.2.0"


class UserError(Exception):
    """Something that the user can put right; the message says what, where and how.

    Every error that micro_rm raises on purpose is one of these. Its text holds no secrets: what
    others said in it (a hub, a library) is redacted.
    """

    def __str__(self) -> str:
        from .configs.secrets import redact

        return redact(super().__str__())


def load(run: str | Path, *, device: str = "auto", room: int = 10_000) -> Model:
    """A trained run that scores raw text; see ``micro_rm.serve.model.load``."""
    from .serve.model import load as load_model

    return load_model(run, device=device, room=room)


__all__ = ["UserError", "__version__", "load"]
