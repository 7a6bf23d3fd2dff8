"""Registered methods: exact name -> method. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Sequence

from ...configs.schema import ConfigError
from .interface import Method
from .micro import MICRO
from .mixture import MICRO_STAGE1, SINGLE_BT, STATIC_MIXTURE

METHODS: dict[str, Method] = {
    method.name: method for method in (SINGLE_BT, STATIC_MIXTURE, MICRO_STAGE1, MICRO)
}


def choose_methods(names: Sequence[str] | str) -> list[Method]:
    """Methods by name, in registry order, with those that they need; ``all`` names every one."""
    asked = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    if "all" in asked:
        return list(METHODS.values())
    unknown = sorted(set(asked) - METHODS.keys())
    if unknown or not asked:
        raise ConfigError(
            f"methods: expected all or some of {', '.join(METHODS)}, found {', '.join(unknown)!r}"
        )
    wanted = set(asked)
    for method in reversed(METHODS.values()):
        if method.name in wanted:
            wanted |= set(method.needs)
    return [method for method in METHODS.values() if method.name in wanted]
