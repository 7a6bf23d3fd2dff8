"""How much room a job needs, that it is asked for first, and what a full disk says."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from micro_rm.cache import output
from micro_rm.cache.pairs import pairs_path
from micro_rm.cache.schema import StoreError
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, EmbedConfig
from micro_rm.display.embedding import preview_lines
from micro_rm.embed import disk_space as space
from micro_rm.embed import shard_loop as extract
from micro_rm.embed.disk_space import (
    RequiredSpace,
    SpaceError,
    describe_shortage,
    explain_full_disk,
    free_bytes,
    require_space,
    required_space,
)
from micro_rm.embed.plan import Plan, find_plan
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.stage import JobResult, preview_job

SMALL = EmbedConfig(device="cpu", bin_tokens=100, shard_tokens=200)
MakePlan = Callable[..., tuple[Config, Plan]]
Embed = Callable[..., JobResult]


@pytest.fixture
def file(
    tmp_path: Path,
    write_rows: Callable[..., str],
    preference_rows: Callable[[int], list[dict[str, Any]]],
) -> str:
    return write_rows(tmp_path / "rows.jsonl", preference_rows(24))


def test_a_job_needs_what_it_then_writes(
    plan: MakePlan, embed: Embed, file: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    _, made = plan("llama", file, store)
    needed = required_space(made, store, "float32")
    embed("llama", file, store)
    written = sum(path.stat().st_size for path in (store / "shards").iterdir())
    table = pairs_path(store, "rows").stat().st_size
    header = made.facts.shards * space.SHARD_EXTRA
    assert needed.vectors - header < written <= needed.vectors
    assert table <= needed.tables < table + 2 * space.TABLE_BASE
    assert required_space(made, store, "float32").vectors == 0


def test_what_is_sealed_or_being_written_is_not_needed_again(
    plan: MakePlan, file: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    _, made = plan("llama", file, store)
    whole = required_space(made, store, "bfloat16").vectors
    assert whole < required_space(made, store, "float32").vectors
    (store / "shards").mkdir(parents=True)
    (store / "shards" / "000000.h5").write_bytes(bytes(700))
    (store / "shards" / "000001.h5.17.tmp").write_bytes(bytes(300))
    (store / "shards" / "notes.txt").write_bytes(bytes(50))
    assert required_space(made, store, "bfloat16").vectors == whole - 1000


def test_a_job_that_does_not_fit_is_refused_before_its_first_pass(
    embed: Embed, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(space, "free_bytes", lambda _store: 1000)
    monkeypatch.setattr(extract, "embed_bins", lambda *_: pytest.fail("a forward pass"))
    message = r"about [\d,]+ more bytes are needed to finish \([\d,]+ of vectors, [\d,]+ of tables"
    with pytest.raises(SpaceError, match=message + r"\), 1,000 are free; free space or choose"):
        embed("llama", file, store)
    monkeypatch.undo()
    assert embed("llama", file, store).account is not None
    assert verify_store(store).problems == []


def test_a_dry_run_says_what_does_not_fit(
    configure: Callable[..., Config], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("llama", file, tmp_path / "store")
    assert preview_job(config, open_pairs(config.data))[0].shortage == ""
    monkeypatch.setattr(space, "free_bytes", lambda _store: 1000)
    preview, _, encoder = preview_job(config, open_pairs(config.data))
    assert "1,000 are free" in preview.shortage
    assert preview_lines(preview, encoder)[-1] == f"embed    not enough room: {preview.shortage}"


def test_exactly_enough_is_enough(
    plan: MakePlan, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, made = plan("llama", file, tmp_path)
    needed = required_space(made, tmp_path, "float32").bytes
    monkeypatch.setattr(space, "free_bytes", lambda _store: needed)
    require_space(made, tmp_path, "float32")
    monkeypatch.setattr(space, "free_bytes", lambda _store: needed - 1)
    assert f"about {needed:,} more" in describe_shortage(made, tmp_path, "float32")


def test_free_space_is_that_of_the_nearest_directory_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def statvfs(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(f_bavail=3, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert free_bytes(tmp_path / "not" / "yet") == 3 * 4096
    assert asked == [tmp_path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_says_what_is_needed_and_what_is_free(
    number: int, tmp_path: Path
) -> None:
    with (
        pytest.raises(SpaceError, match="about 7 more bytes are needed to finish") as caught,
        explain_full_disk(tmp_path, lambda: RequiredSpace(4, 3)),
    ):
        raise OSError(number, os.strerror(number), "x.h5")
    for words in (os.strerror(number), "x.h5", "bytes are free", "the same command goes on"):
        assert words in str(caught.value)
    assert isinstance(caught.value, StoreError)


def test_numpy_says_no_number_but_is_understood(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full, pytest.raises(OSError, match="requested and") as caught:
        np.zeros(100_000).tofile(full)
    assert caught.value.errno is None
    with (
        pytest.raises(SpaceError, match="is known once the plan is written"),
        explain_full_disk(tmp_path, lambda: None),
    ):
        raise caught.value


def test_another_error_of_the_disk_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explain_full_disk(tmp_path, lambda: RequiredSpace(4, 3)):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.long
def test_a_disk_that_fills_while_shards_are_sealed_keeps_them_and_the_job_goes_on(
    embed: Embed, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, store = tmp_path / "whole", tmp_path / "store"
    embed("llama", file, whole, embed=SMALL)
    honest, left = os.pwrite, 25_000

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        nonlocal left
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(descriptor, data, offset)

    monkeypatch.setattr(output.os, "pwrite", pwrite)
    with pytest.raises(SpaceError, match="more bytes are needed"):
        embed("llama", file, store, embed=SMALL)
    monkeypatch.undo()
    sealed = sorted(path.name for path in (store / "shards").iterdir())
    assert sealed and all(name.endswith(".h5") for name in sealed)
    job = Plan(store / "plan").facts.job
    made = find_plan(store, job)
    assert made is not None and made.pending(store)
    embed("llama", file, store, embed=SMALL)
    for path in sorted((whole / "shards").iterdir()):
        assert (store / "shards" / path.name).read_bytes() == path.read_bytes()
