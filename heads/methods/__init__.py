"""Registered methods: exact name -> where it is defined. A new one is one file and one line here.

The registry holds places, not objects, so that a name can be checked without loading JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ...common.errors import ConfigError

if TYPE_CHECKING:
    from .interface import Method

METHODS = {
    "native_head": ("native_head", "NATIVE_HEAD"),
    "length_only": ("length_only", "LENGTH_ONLY"),
    "single_bt": ("mixture", "SINGLE_BT"),
    "single_bt_exact": ("single_bt_exact", "SINGLE_BT_EXACT"),
    "static_mixture": ("mixture", "STATIC_MIXTURE"),
    "maxmin_em": ("maxmin_em", "MAXMIN_EM"),
    "shared_base": ("shared_base", "SHARED_BASE"),
    "shared_base_converged": ("shared_base", "SHARED_BASE_CONVERGED"),
    "shared_base_anchored": ("shared_base", "SHARED_BASE_ANCHORED"),
    "dpl": ("dpl", "DPL"),
    "dpl_categorical": ("dpl", "DPL_CATEGORICAL"),
    "armo_style": ("armo_style", "ARMO_STYLE"),
    "micro_stage1": ("mixture", "MICRO_STAGE1"),
    "hyre": ("hyre", "HYRE"),
    "hyre_anchored": ("hyre", "HYRE_ANCHORED"),
    "drm": ("drm", "DRM"),
    "vpl": ("vpl", "VPL"),
    "pal": ("pal", "PAL"),
    "micro": ("micro", "MICRO"),
    "micro_kernel": ("micro_kernel", "MICRO_KERNEL"),
    "micro_hyre": ("hyre", "MICRO_HYRE"),
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
    """The methods asked for and those that come before them, in registry order."""
    wanted = set(check_names(names))
    for name in reversed(METHODS):
        if name in wanted:
            wanted |= set(load_method(name).after)
    return [load_method(name) for name in METHODS if name in wanted]
