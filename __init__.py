"""Reward models for different people: mixture heads and routing from cached features.

Importing this package loads neither torch nor jax; the parts do, when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .common.errors import UserError
from .common.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from .serve.model import Model


def load(run: str | Path, *, device: str = "auto", room: int = 10_000) -> Model:
    """A trained run that scores raw text; see ``micro_rm.serve.model.load``."""
    from .serve.model import load as load_model

    return load_model(run, device=device, room=room)


__all__ = ["UserError", "__version__", "load"]
