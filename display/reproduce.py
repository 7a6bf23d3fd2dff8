"""The command that makes a run again, from its record: every setting that is not the default."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..configs.schema import Config

# What only other commands read; it changes no number of a run.
ELSEWHERE = ("share", "score", "upkeep", "export", "serve", "sweep", "study", "theory")


def command(config: Mapping[str, Any]) -> str:
    """A ``micro-rm run`` line for a shell; empty if the record has no configuration."""
    if not config:
        return ""
    defaults = dict(_flat(asdict(Config())))
    words = ["micro-rm run"]
    for key, value in _flat(config):
        if key.partition(".")[0] not in ELSEWHERE and (
            key not in defaults or defaults[key] != value
        ):
            words.append(f"--{key} {shlex.quote(_word(value))}")
    return " \\\n  ".join(words)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values, as JSON gives them back."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.loads(json.dumps(value))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
