"""Registered methods: exact name -> where it is defined. A new one is one file and one line here.

The registry holds places, not objects, so that a name can be checked without loading JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ...configs.schema import ConfigError

if TYPE_CHECKING:
    from .interface import Method

METHODS = {
    "single_bt": ("mixture", "SINGLE_BT"),
    "static_mixture": ("mixture", "STATIC_MIXTURE"),
    "micro_stage1": ("mixture", "MICRO_STAGE1"),
    "micro": ("micro", "MICRO"),
}


def load_method(name: str) -> Method:
    """The method registered under a name."""
    module, constant = METHODS[name]
    return getattr(import_module(f".{module}", __name__), constant)


def check_names(names: Sequence[str] | str) -> list[str]:
    """The names asked for, in registry order; ``all`` stands for every one.

    Raises ``ConfigError`` that lists the registered names if one of them is not.
    """
    asked = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    if "all" in asked:
        return list(METHODS)
    unknown = sorted(set(asked) - METHODS.keys())
    if unknown or not asked:
        raise ConfigError(
            f"methods: expected all or some of {', '.join(METHODS)}, found {', '.join(unknown)!r}"
        )
    return [name for name in METHODS if name in asked]


def choose_methods(names: Sequence[str] | str) -> list[Method]:
    """The methods asked for and those that they need, in registry order."""
    wanted = set(check_names(names))
    for name in reversed(METHODS):
        if name in wanted:
            wanted |= set(load_method(name).needs)
    return [load_method(name) for name in METHODS if name in wanted]
