"""A store that two tables use in part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from micro_rm.cache.files import replace_file
from micro_rm.cache.pairs import write_pairs
from micro_rm.tests.cache.stores import layout, make_store, make_table


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Shards of 4, 3 and 2 vectors; table "rows" of four users' pairs, and "more" of one pair."""
    path = tmp_path / "store"
    make_store(path, (4, 3, 2))
    table = make_table([1, 3, 7, 8])
    users = {"user": ["ann", "ben", "cleo", "ann"]}
    write_pairs(path, replace(table, text={**table.text, **users}, layout=layout(path)))
    write_pairs(path, make_table([7], name="more", layout=layout(path)))
    (path / "quarantine").mkdir()
    lines = [
        {"row": 3, "field": "chosen", "reason": "empty", "raw": {"user": "ann", "prompt": "p"}},
        {"row": 9, "field": "chosen", "reason": "empty", "raw": {"user": "ben", "prompt": "ann"}},
        {"row": 11, "field": "", "reason": "not JSON", "raw": '{"user": "ann", }'},
    ]
    half = path / "quarantine" / "rows.jsonl.tmp"
    half.write_text("".join(json.dumps(line) + "\n" for line in lines))
    replace_file(path, "quarantine/rows.jsonl", half)
    return path
