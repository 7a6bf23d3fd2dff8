"""Renamed and removed keys of the configuration.

For one version an old name still works in flags and YAML, and in the configuration of a run record
that was written before; a key that has been removed is ignored there.
"""

from __future__ import annotations

from typing import Any

from ..common.errors import ConfigError

# The last part of a dotted key -> its name now. No section may use an old name for anything else.
RENAMED = {
    "memory_gb": "memory_gib",  # train.memory_gb and sweep.memory_gb have always held GiB
    "room": "cached_texts",  # serve.room
}
# The last part of a dotted key that is gone -> why nothing has replaced it.
REMOVED = {
    "bootstrap": "intervals are not made by resampling any more",  # evaluate.bootstrap
    "adapt_epochs": "pal fits the weights of every group to convergence",  # baselines.pal
}


def current_key(key: str) -> str:
    """The present name of a dotted key.

    Example:
        >>> current_key("train.memory_gb"), current_key("train.epochs")
        ('train.memory_gib', 'train.epochs')
    """
    section, dot, name = key.rpartition(".")
    return section + dot + RENAMED.get(name, name)


def is_removed(key: str) -> bool:
    """Whether a dotted key, or a flag, stands for nothing any more."""
    return key.rpartition(".")[2] in REMOVED


def notice(key: str) -> str:
    """What to tell a user of an old key, in one line.

    Example:
        >>> notice("serve.room")
        'serve.room is called serve.cached_texts now; the old name works in this version only'
    """
    if is_removed(key):
        reason = REMOVED[key.rpartition(".")[2]]
        return f"{key} is ignored ({reason}); it is accepted in this version only"
    return f"{key} is called {current_key(key)} now; the old name works in this version only"


def current_keys(value: Any, outdated: set[str] | None = None) -> Any:
    """A configuration, or any part of one, with every mapping keyed by present names only.

    Keys may be nested (``{"train": {"memory_gb": 8}}``) or dotted (``{"train.memory_gb": 8}``).
    Old keys that occur are added to ``outdated``. Raises ``ConfigError`` if a mapping has both
    names of one key.

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
        removed = isinstance(key, str) and is_removed(key)
        name = current_key(key) if isinstance(key, str) else key
        if name != key and name in value:
            raise ConfigError(f"{key} and {name} are one setting; keep {name} only")
        if outdated is not None and (removed or name != key):
            outdated.add(key)
        if not removed:
            result[name] = current_keys(inner, outdated)
    return result
