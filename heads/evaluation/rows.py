"""The rows of a method table: methods, and the best single heads below the one they are of."""

from __future__ import annotations

from collections.abc import Iterable

ORACLE, VALIDATED = "_best_head_oracle", "_best_head_validated"


def owner_of(name: str) -> str:
    """The method whose heads a best-head row is chosen from; the name itself of other rows."""
    return name.removesuffix(ORACLE).removesuffix(VALIDATED)


def labelled_rows(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Names with what to call them: best single heads stand, indented, below their owner."""
    names = list(methods)
    rows = []
    for name in names:
        if not name.endswith((ORACLE, VALIDATED)):
            rows.append((name, name))
            for suffix, words in ((VALIDATED, "best validated"), (ORACLE, "oracle")):
                if name + suffix in names:
                    rows.append((name + suffix, f"  {words} head"))
    return rows
