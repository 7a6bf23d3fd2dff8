"""The row order of method tables: each method, then the best single heads among its own."""

from __future__ import annotations

from collections.abc import Iterable

ORACLE, VALIDATED = "_best_head_oracle", "_best_head_validated"


def owner_of(name: str) -> str:
    """The method that a best-head row takes its head from; other names are returned unchanged.

    >>> owner_of("micro_best_head_oracle"), owner_of("micro")
    ('micro', 'micro')
    """
    return name.removesuffix(ORACLE).removesuffix(VALIDATED)


def labelled_rows(methods: Iterable[str]) -> list[tuple[str, str]]:
    """Order method names for a table; returns ``(name, label)`` pairs.

    Best single heads follow their owner under an indented label.

    >>> labelled_rows(["micro_best_head_oracle", "micro"])
    [('micro', 'micro'), ('micro_best_head_oracle', '  oracle head')]
    """
    names = list(methods)
    rows = []
    for name in names:
        if not name.endswith((ORACLE, VALIDATED)):
            rows.append((name, name))
            for suffix, words in ((VALIDATED, "best validated"), (ORACLE, "oracle")):
                if name + suffix in names:
                    rows.append((name + suffix, f"  {words} head"))
    return rows
