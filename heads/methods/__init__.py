"""Registered methods: exact name -> where it is defined. A new one is one file and one line here.

The registry holds import paths, not objects, so that a name can be checked without loading JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ...common.errors import ConfigError

if TYPE_CHECKING:
    from .interface import Method, ScoreInput

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


# Methods that were defined outside of the package, by name; see ``register``.
_OUTSIDE: dict[str, Method] = {}


def method_names() -> list[str]:
    """Names of all methods: those of the package, then those registered by the user."""
    return [*METHODS, *_OUTSIDE]


def register(method: Method) -> None:
    """Make a method known under its name; one that the user registered before is replaced.

    Raises ``ConfigError`` for the name of a method of the package, and for a method that comes
    after one that does not exist.
    """
    if method.name in METHODS or not method.name.isidentifier():
        raise ConfigError(
            f"method {method.name!r}: expected an identifier that no method of micro_rm has"
        )
    unknown = sorted(set(method.after) - set(method_names()))
    if unknown:
        raise ConfigError(
            f"method {method.name!r} comes after {', '.join(unknown)}, which does not exist; "
            f"expected some of {', '.join(method_names())}"
        )
    _OUTSIDE[method.name] = method


def load_method(name: str) -> Method:
    """The method registered under a name. Raises ``ConfigError`` if there is none."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    if name not in METHODS:
        raise ConfigError(
            f"method {name!r} is not registered; if it was defined outside of micro_rm, import "
            "what defines it first"
        )
    module, constant = METHODS[name]
    return getattr(import_module(f".{module}", __name__), constant)


def check_names(names: Sequence[str] | str) -> list[str]:
    """The names asked for, in registry order; ``all`` stands for every one.

    Raises ``ConfigError`` that lists the registered names if one of them is not.
    """
    known = method_names()
    asked = names.replace(" ", "").split(",") if isinstance(names, str) else list(names)
    if "all" in asked:
        return known
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        raise ConfigError(
            f"methods: expected all or some of {', '.join(known)}, found {', '.join(unknown)!r}"
        )
    return [name for name in known if name in asked]


def choose_methods(names: Sequence[str] | str) -> list[Method]:
    """The methods asked for and those that come before them, in registry order."""
    wanted = set(check_names(names))
    known = method_names()
    for name in reversed(known):
        if name in wanted:
            wanted |= set(load_method(name).after)
    return [load_method(name) for name in known if name in wanted]


def ranked_methods() -> list[Method]:
    """The methods that are chosen by default, in order of preference."""
    methods = [load_method(name) for name in method_names()]
    ranked = [(method.rank, method) for method in methods if method.rank is not None]
    return [method for _, method in sorted(ranked, key=lambda pair: pair[0])]


def default_methods(request: ScoreInput) -> list[str]:
    """Names of the methods that score a request if none is named, in order of preference."""
    return [method.name for method in ranked_methods() if request in method.default_for]


def outside_sources(names: Sequence[str]) -> list[str]:
    """Source text of the chosen methods that were defined outside of the package."""
    return [_OUTSIDE[name].source for name in names if name in _OUTSIDE]
