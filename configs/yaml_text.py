"""YAML of a configuration: plain data of a bounded size, every key once, or an error."""

from __future__ import annotations

from typing import Any

from jsonargparse import get_loader

from ..common.errors import ConfigError

_LOAD = get_loader("yaml")

# A configuration of hand-written keys is far below these; what is beyond is no configuration.
MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50


def load_yaml(text: str) -> Any:
    """The value of a text, by the loader of jsonargparse, which makes no Python objects.

    Raises ``ConfigError`` for a text that is too long, too deep, too large once its aliases are
    written out, or that has a key twice.
    """
    check_yaml(text)
    return _LOAD(text)


def check_yaml(text: str) -> None:
    """Raise ``ConfigError`` as ``load_yaml`` does; a text that is no YAML is left to the loader."""
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"a configuration of {len(text):,} characters; expected {MAX_CHARACTERS:,} or fewer, "
            "is it another file?"
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    tree = _Tree()
    try:
        for event in yaml.parse(text, Loader=loader):
            tree.add(event)
    except yaml.YAMLError:
        return


class _Open:
    """A list or a mapping that has begun."""

    def __init__(self, event: Any, *, mapping: bool) -> None:
        self.anchor, self.mapping = event.anchor, mapping
        self.children, self.values = 0, 1
        self.keys: set[str] = set()


class _Tree:
    """Counts the values of a document, an alias as much as what it stands for."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.sizes: dict[str, int] = {}

    def add(self, event: Any) -> None:
        kind = type(event).__name__
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            self.open.append(_Open(event, mapping=kind == "MappingStartEvent"))
            if len(self.open) > MAX_DEPTH:
                self._refuse(event, f"more than {MAX_DEPTH} lists or mappings in one another")
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            done = self.open.pop()
            self._count(event, done.values, done.anchor)
        elif kind == "ScalarEvent":
            self._check_key(event)
            self._count(event, 1, event.anchor)
        elif kind == "AliasEvent":
            if event.anchor not in self.sizes:
                self._refuse(event, f"*{event.anchor} stands for something that it is part of")
            self._count(event, self.sizes[event.anchor], None)

    def _check_key(self, event: Any) -> None:
        inside = self.open[-1] if self.open else None
        if inside is None or not inside.mapping or inside.children % 2:
            return
        if event.value in inside.keys and event.value != "<<":
            self._refuse(event, f"the key {event.value!r} for the second time")
        inside.keys.add(event.value)

    def _count(self, event: Any, values: int, anchor: str | None) -> None:
        if anchor:
            self.sizes[anchor] = values
        if self.open:
            self.open[-1].children += 1
            self.open[-1].values += values
            if self.open[-1].values > MAX_VALUES:
                self._refuse(event, f"more than {MAX_VALUES:,} values, aliases written out")

    def _refuse(self, event: Any, what: str) -> None:
        raise ConfigError(f"configuration, line {event.start_mark.line + 1}: {what}")
