"""A plan as files: what was written comes back, and nothing half written or half removed does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.schema import KEY_DTYPE, StoreError
from micro_rm.cache.writer import shard_path
from micro_rm.embed import plan as plan_module
from micro_rm.embed.plan import (
    TOKENS,
    Plan,
    PlanFacts,
    find_plan,
    plan_path,
    publish_plan,
    remove_plan,
    write_plan,
)
from micro_rm.embed.tokenize import TOKEN_DTYPE

FACTS = PlanFacts(
    job="job",
    name="rows",
    pairs=2,
    sequences=4,
    stored=1,
    tokens=7,
    separate_tokens=8,
    bins=3,
    bin_tokens=4,
    shards=2,
    first_shard=5,
    shortened=0,
    sharing=True,
    width=6,
)
SEQUENCES = ([1, 2], [1, 2, 3], [9], [4, 5, 6])
ARRAYS: dict[str, np.ndarray] = {
    "keys": np.array([bytes([65 + n]) * 16 for n in range(4)], KEY_DTYPE),
    "lengths": np.array([2, 3, 1, 3]),
    "starts": np.array([0, 2, 5, 6]),
    "sequence_of": np.array([0, 1, 2, -1, 3]),
    "keep": np.array([True, False, True]),
    "pool": np.array([False, False, True]),
    "members": np.array([1, 0, 3]),
    "bin_starts": np.array([0, 1, 2, 3]),
    "bin_tokens": np.array([3, 1, 3]),
    "shard_starts": np.array([0, 2, 3]),
}
COLUMNS = {"plain/chosen": np.array([0, 1, 2]), "ctx/prompt": np.array([-1, 3, 4])}


def made_in(directory: Path, **changes: Any) -> Path:
    """A small plan in a directory of its own."""
    directory.mkdir(parents=True)
    np.array([token for ids in SEQUENCES for token in ids], TOKEN_DTYPE).tofile(directory / TOKENS)
    write_plan(directory, replace(FACTS, **changes), ARRAYS, COLUMNS, {3: "overlong: 99"})
    return directory


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    plan = Plan(made_in(tmp_path / "plan"))
    assert plan.facts == FACTS
    assert plan.refusals == {3: "overlong: 99"}
    assert list(plan.columns) == list(COLUMNS)
    for name, column in COLUMNS.items():
        assert plan.columns[name].tolist() == column.tolist()
    for name in ("keys", "lengths", "sequence_of", "keep", "pool"):
        assert getattr(plan, name).tolist() == ARRAYS[name].tolist()


def test_a_sequence_is_found_in_the_token_file(tmp_path: Path) -> None:
    plan = Plan(made_in(tmp_path / "plan"))
    assert [plan.sequence(number).tolist() for number in range(4)] == list(map(list, SEQUENCES))
    assert plan.sequence(0).dtype == TOKEN_DTYPE


def test_shards_know_their_bins_members_and_tokens(tmp_path: Path) -> None:
    plan = Plan(made_in(tmp_path / "plan"))
    bins = [[(n, members.tolist()) for n, members in plan.bins(shard)] for shard in (0, 1)]
    assert bins == [[(3, [1]), (1, [0])], [(3, [3])]]
    assert [plan.members(shard).tolist() for shard in (0, 1)] == [[1, 0], [3]]
    assert [plan.shard_tokens(shard) for shard in (0, 1)] == [4, 3]


def test_the_shards_of_a_job_are_counted_from_its_first_one(tmp_path: Path) -> None:
    """Shard 5 of the store is shard 0 of this job; what lies before it belongs to others."""
    plan = Plan(made_in(tmp_path / "plan"))
    (tmp_path / "shards").mkdir()
    assert plan.pending(tmp_path) == [0, 1]
    for number in (0, 1, 6):
        shard_path(tmp_path, number).touch()
    assert plan.pending(tmp_path) == [0]
    assert [plan.is_sealed(tmp_path, shard) for shard in (0, 1)] == [False, True]


def test_a_plan_without_bins_is_full() -> None:
    assert FACTS.fill == pytest.approx(7 / 12)
    assert replace(FACTS, bins=0).fill == 1.0


def test_an_empty_token_file_is_no_tokens(tmp_path: Path) -> None:
    plan = Plan(made_in(tmp_path / "plan"))
    (tmp_path / "plan" / TOKENS).write_bytes(b"")
    assert plan.tokens.tolist() == []


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", {"format": 99}, {"colour": "red"}, {"width": None}]
)
def test_a_damaged_plan_is_an_error_that_names_its_directory(
    content: str | dict[str, Any] | None, tmp_path: Path
) -> None:
    """No file, no JSON, no object, another format, a field too many or one too few."""
    path = made_in(tmp_path / "plan") / "plan.json"
    raw = json.loads(path.read_text())
    if isinstance(content, dict):
        raw |= content
        raw = {name: value for name, value in raw.items() if value is not None}
        content = json.dumps(raw)
    path.write_text(content or "")
    if content is None:
        path.unlink()
    with pytest.raises(StoreError) as caught:
        Plan(tmp_path / "plan")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'plan'}: not a plan that this version can go on with")
    assert "remove this directory, the embedded shards stay" in message


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_array_is_an_error_that_names_file_and_directory(
    damage: str, tmp_path: Path
) -> None:
    path = made_in(tmp_path / "plan") / "keys.npy"
    path.write_bytes(path.read_bytes()[:40])
    if damage == "missing":
        path.unlink()
    with pytest.raises(StoreError) as caught:
        _ = Plan(tmp_path / "plan").keys
    assert str(caught.value).startswith(f"{path}: unreadable")
    assert f"remove {tmp_path / 'plan'}, the embedded shards stay" in str(caught.value)


def test_only_the_plan_of_the_same_job_is_found(tmp_path: Path) -> None:
    assert find_plan(tmp_path, "job") is None
    publish_plan(made_in(tmp_path / "plan.4711"), tmp_path)
    plan = find_plan(tmp_path, "job")
    assert plan is not None and plan.directory == plan_path(tmp_path)
    assert find_plan(tmp_path, "another") is None


def test_removing_takes_what_killed_planners_left_along(tmp_path: Path) -> None:
    for name in ("plan", "plan.12", "plan.4711"):
        made_in(tmp_path / name)
    (tmp_path / "plan.99").mkdir()
    (tmp_path / "shards").mkdir()
    remove_plan(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    remove_plan(tmp_path)


def test_a_half_removed_plan_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may die while it removes a plan: the next one must not go on with the rest."""
    made_in(plan_path(tmp_path))

    def die(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_module.shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        remove_plan(tmp_path)
    monkeypatch.undo()
    assert find_plan(tmp_path, "job") is None
    remove_plan(tmp_path)
    assert not plan_path(tmp_path).exists()
    assert shutil.rmtree is plan_module.shutil.rmtree
