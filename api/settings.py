"""Keyword arguments and dotted keys to a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..common.errors import ConfigError
from ..configs.schema import Config
from ..configs.sweep import with_settings

Settings = Mapping[str, Any]


def make_config(settings: Settings | None, **sections: Mapping[str, Any]) -> Config:
    """The default configuration with some keys set.

    Args:
        settings: Values by dotted key, such as ``{"train.epochs": 5}``, as the user gave them.
        **sections: Values that the caller sets, by section and key. None leaves a key alone.

    Raises:
        ConfigError: A key is unknown, a value is out of range, or ``settings`` names a key that an
            argument of the caller sets.
    """
    config = Config()
    for key in settings or {}:
        section, _, name = key.partition(".")
        if sections.get(section, {}).get(name) is not None:
            raise ConfigError(f"settings: {key} is set by an argument of the call; give it there")
    for name, values in sections.items():
        given = {key: value for key, value in values.items() if value is not None}
        config = replace(config, **{name: replace(getattr(config, name), **given)})
    return with_settings(config, settings or {})
