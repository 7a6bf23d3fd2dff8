"""A configuration read back from JSON, as a run record keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from .renamed import current_keys
from .schema import Config


def read_config(content: Mapping[str, Any]) -> Config:
    """The configuration of a run record, whose keys may have old names.

    Keys that older versions did not have take their defaults; keys that this version no longer has
    are left out. Raises ``ConfigError`` for a value that is out of range.
    """
    return _read(Config, current_keys(content))


def _read(kind: Any, content: Mapping[str, Any]) -> Any:
    """A dataclass from its JSON object, nested sections and lists of sections included."""
    hints = get_type_hints(kind)
    values = {}
    for item in fields(kind):
        if item.name not in content:
            continue
        value, hint = content[item.name], hints[item.name]
        inner = next((one for one in get_args(hint) if is_dataclass(one)), None)
        if is_dataclass(hint):
            value = _read(hint, value)
        elif inner is not None and isinstance(value, list):
            value = [_read(inner, one) for one in value]
        values[item.name] = value
    return kind(**values)
