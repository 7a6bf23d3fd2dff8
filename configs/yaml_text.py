"""Read the YAML of a configuration: plain data of a bounded size, without repeated keys."""

from __future__ import annotations

from typing import Any

from jsonargparse import get_loader

from ..common.errors import ConfigError

_LOAD = get_loader("yaml")

# Far above any configuration that people write, and small enough to be read in no time.
MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
MAX_DEPTH = 50


def load_yaml(text: str) -> Any:
    """Parse YAML with the loader of jsonargparse, which constructs no Python objects.

    Raises ``ConfigError`` if the text is too long, nested too deeply, too large once its aliases
    are expanded, or repeats a key.
    """
    check_yaml(text)
    return _LOAD(text)


def check_yaml(text: str) -> None:
    """Raise ``ConfigError`` as ``load_yaml`` does; invalid YAML is left to the loader to report.

    The text is checked as a stream of parser events, before any value is built.
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"a configuration of {len(text):,} characters; expected {MAX_CHARACTERS:,} or fewer, "
            "is it another file?"
        )
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    checker = _EventChecker()
    try:
        for event in yaml.parse(text, Loader=loader):
            checker.add(event)
    except yaml.YAMLError:
        return


class _OpenNode:
    """A list or mapping whose end has not been read yet."""

    def __init__(self, event: Any, *, mapping: bool) -> None:
        self.anchor, self.mapping = event.anchor, mapping
        self.children = 0  # direct children; keys and values of a mapping alternate
        self.values = 1  # this node and everything below it
        self.keys: set[str] = set()


class _EventChecker:
    """Counts values over parser events; an alias counts as many as the node that it repeats."""

    def __init__(self) -> None:
        self.open: list[_OpenNode] = []  # from the root to the innermost open node
        self.sizes: dict[str, int] = {}  # values of every finished node with an anchor

    def add(self, event: Any) -> None:
        kind = type(event).__name__
        if kind in ("SequenceStartEvent", "MappingStartEvent"):
            self.open.append(_OpenNode(event, mapping=kind == "MappingStartEvent"))
            if len(self.open) > MAX_DEPTH:
                self._refuse(event, f"more than {MAX_DEPTH} lists or mappings in one another")
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            closed = self.open.pop()
            self._count(event, closed.values, closed.anchor)
        elif kind == "ScalarEvent":
            self._check_key(event)
            self._count(event, 1, event.anchor)
        elif kind == "AliasEvent":
            if event.anchor not in self.sizes:  # its node is still open, so the alias is inside
                self._refuse(event, f"*{event.anchor} stands for something that it is part of")
            self._count(event, self.sizes[event.anchor], None)

    def _check_key(self, event: Any) -> None:
        parent = self.open[-1] if self.open else None
        if parent is None or not parent.mapping or parent.children % 2:  # not a key
            return
        if event.value in parent.keys and event.value != "<<":  # merges may be repeated
            self._refuse(event, f"the key {event.value!r} for the second time")
        parent.keys.add(event.value)

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
