"""Renamed and removed keys of the configuration.

For one version an old name still works in flags and YAML, and in the configuration of a run record
that was written before.
"""

from __future__ import annotations

from typing import Any

from ..common.errors import ConfigError

# The last part of a dotted key -> its name now. No section may use an old name for anything else.
RENAMED = {
    "memory_gb": "memory_gib",  # train.memory_gb and sweep.memory_gb have always held GiB
    "room": "cached_texts",  # serve.room
}
# The last part of a dotted key that means nothing any more -> why.
REMOVED = {"bootstrap": "evaluate.bootstrap: intervals are not made by resampling any more"}


def current_key(key: str) -> str:
    """The present name of a dotted key.

    Example:
        >>> current_key("train.memory_gb"), current_key("train.epochs")
        ('train.memory_gib', 'train.epochs')
    """
    section, dot, name = key.rpartition(".")
    return section + dot + RENAMED.get(name, name)


def removed(key: str) -> bool:
    """Whether a dotted key has no effect any more."""
    return key.rpartition(".")[2] in REMOVED


def notice(key: str) -> str:
    """What to say of an old key."""
    if removed(key):
        return f"{REMOVED[key.rpartition('.')[2]]}; the key is ignored in this version only"
    return f"{key} is called {current_key(key)} now; the old name works in this version only"


def current_keys(value: Any, outdated: set[str] | None = None) -> Any:
    """A configuration, or any part of one, with every mapping keyed by present names.

    Keys may be nested (``{"train": {"memory_gb": 8}}``) or dotted (``{"train.memory_gb": 8}``).
    Old names that occur are added to ``outdated``, removed keys are left out. Raises
    ``ConfigError`` if a mapping has both names of one key.

    Example:
        >>> current_keys({"train": {"memory_gb": 8, "epochs": 3}})
        {'train': {'memory_gib': 8, 'epochs': 3}}
    """
    if isinstance(value, list):
        return [current_keys(item, outdated) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[Any, Any] = {}
    for key, inner in value.items():
        name = current_key(key) if isinstance(key, str) else key
        if isinstance(key, str) and removed(key):
            if outdated is not None:
                outdated.add(key)
            continue
        if name != key:
            if name in value:
                raise ConfigError(f"{key} and {name} are one setting; keep {name} only")
            if outdated is not None:
                outdated.add(key)
        result[name] = current_keys(inner, outdated)
    return result
