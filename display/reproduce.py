"""The command that reproduces a run, from the configuration in its record."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..configs.schema import Config

# Sections that ``micro-rm run`` does not read.
OTHER_COMMANDS = ("share", "score", "upkeep", "export", "serve", "sweep", "study", "theory")


def command(config: Mapping[str, Any]) -> str:
    """The ``micro-rm run`` command with every setting that differs from its default.

    Args:
        config: The configuration of a run record, as nested JSON objects.

    Returns:
        A shell command over several lines; empty if ``config`` is.
    """
    if not config:
        return ""
    defaults = dict(_flat(asdict(Config())))
    words = ["micro-rm run"]
    for key, value in _flat(config):
        if key.partition(".")[0] not in OTHER_COMMANDS and (
            key not in defaults or defaults[key] != value
        ):
            words.append(f"--{key} {shlex.quote(_word(value))}")
    return " \\\n  ".join(words)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings to dotted keys, with values as they are after a JSON round trip."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.loads(json.dumps(value))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
