"""A backbone that gives NaN for some sequences: they are left out, counted and tried again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from micro_rm.cache.failed import failed_keys
from micro_rm.cache.manifest import read_manifest
from micro_rm.cache.pairs import PairTable, read_pairs
from micro_rm.cache.reader import FeatureStore
from micro_rm.cache.schema import StoreError
from micro_rm.cache.verify import verify_store
from micro_rm.configs.schema import Config, EmbedConfig
from micro_rm.embed import nonfinite as failures
from micro_rm.embed.backbone import TorchBackbone
from micro_rm.embed.nonfinite import FailureGuard
from micro_rm.embed.sources import open_pairs
from micro_rm.embed.stage import JobResult, run_job

Rows = Callable[[int], list[dict[str, Any]]]
Configure = Callable[..., Config]
Spoil = Callable[[], int]
MARK = "~"
PARTS = EmbedConfig(device="cpu", bin_tokens=256, shard_tokens=300)


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch, make_tokenizer: Callable[..., Any]) -> Spoil:
    """``spoil()``: from now on passes with a marked sequence give NaN throughout; the mark's id."""
    submit, alone = TorchBackbone.submit, TorchBackbone.reference_vector

    def start() -> int:
        mark = make_tokenizer("llama").convert_tokens_to_ids(MARK)

        def bad_submit(self: TorchBackbone, sequences: Any) -> Callable[[], np.ndarray]:
            collect = submit(self, sequences)
            spoilt = any(mark in ids for ids in sequences)
            return lambda: collect() * np.float32(np.nan if spoilt else 1)

        def bad_alone(self: TorchBackbone, ids: np.ndarray) -> np.ndarray:
            return alone(self, ids) * np.float32(np.nan if mark in ids else 1)

        monkeypatch.setattr(TorchBackbone, "submit", bad_submit)
        monkeypatch.setattr(TorchBackbone, "reference_vector", bad_alone)
        return mark

    return start


@pytest.fixture
def file(tmp_path: Path, write_rows: Callable[..., str], preference_rows: Rows) -> str:
    """Row 6 has a marked response, row 13 a marked prompt."""
    rows = preference_rows(16)
    rows[5]["rejected"] += MARK
    rows[12]["prompt"] = MARK + rows[12]["prompt"]
    return write_rows(tmp_path / "rows.jsonl", rows)


def job(config: Config, *, retry: bool = False, said: list[str] | None = None) -> JobResult:
    return run_job(
        config,
        open_pairs(config.data),
        "request",
        on_plan=lambda *_: None,
        progress=lambda *_: None,
        notify=(said if said is not None else []).append,
        retry=retry,
    )


def by_key(store: Path) -> dict[bytes, np.ndarray]:
    reader = FeatureStore(store)
    vectors = reader.vectors(np.arange(len(reader)))
    return dict(zip(reader.keys().tolist(), vectors, strict=True))


def resolved(store: Path, table: PairTable) -> list[Any]:
    """What a table says, with keys in place of rows of the store: equal for equal inputs."""
    keys = np.append(FeatureStore(store).keys(), b"none")
    columns = {name: keys[rows].tolist() for name, rows in sorted(table.rows.items())}
    numbers = [table.source_row, table.pool, *(table.tokens[name] for name in sorted(table.tokens))]
    return [columns, dict(table.text), *(array.tolist() for array in numbers)]


def test_failed_sequences_take_their_pairs_along_and_nothing_else(
    spoil: Spoil, configure: Configure, file: str, tmp_path: Path
) -> None:
    """In two processes after each other: what failed is known with the shards."""
    config = configure("llama", file, tmp_path / "whole", embed=PARTS)
    job(config)
    whole = by_key(tmp_path / "whole")
    spoil()
    said: list[str] = []
    for part in range(2):
        here = replace(PARTS, shards=f"{part}/2")
        outcome = job(configure("llama", file, tmp_path / "store", embed=here), said=said)
    store = tmp_path / "store"
    table = read_pairs(store, "rows")
    assert table.source_row.tolist() == [n for n in range(1, 17) if n not in (6, 13)]
    actual = by_key(store)
    failed = set(failed_keys(store).tolist())
    assert actual.keys() | failed == whole.keys() and not actual.keys() & failed
    for key, vector in actual.items():
        np.testing.assert_allclose(vector, whole[key], rtol=1e-4, atol=1e-5)
    assert verify_store(store).problems == []
    lines = (store / "quarantine" / "rows.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(item["row"], item["file"]) for item in records] == [(6, file), (13, file)]
    assert records[0]["field"].endswith("/rejected")
    assert {item["reason"] for item in records} == {
        "the backbone gives NaN or infinity for this sequence"
    }
    account = outcome.account
    assert account is not None
    assert (account["pairs"], account["refused"], account["failed_pairs"]) == (14, 2, 2)
    assert account["failed_sequences"] == len(failed) > 2
    assert any("are left out: the backbone gives NaN" in text for text in said)


@pytest.mark.long
def test_what_failed_is_tried_again_only_when_asked(
    spoil: Spoil, configure: Configure, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("llama", file, tmp_path / "store")
    spoil()
    job(config)
    count = len(failed_keys(tmp_path / "store"))
    shards = len(read_manifest(tmp_path / "store").shards)
    again = job(config)
    assert (again.preview.failed_sequences, again.preview.new_sequences) == (count, 0)
    assert len(read_manifest(tmp_path / "store").shards) == shards
    assert again.account is not None and again.account["failed_pairs"] == 2
    # In vain: a shard without any vector.
    vain = job(config, retry=True)
    assert (vain.preview.failed_sequences, vain.preview.new_sequences) == (0, count)
    assert read_manifest(tmp_path / "store").shards[-1].rows == 0
    assert len(read_pairs(tmp_path / "store", "rows")) == 14
    assert verify_store(tmp_path / "store").problems == []
    monkeypatch.undo()
    assert job(config).preview.failed_sequences == count
    done = job(config, retry=True)
    assert done.account is not None and done.account["failed_pairs"] == 0
    fresh = configure("llama", file, tmp_path / "fresh")
    job(fresh)
    assert by_key(tmp_path / "store").keys() == by_key(tmp_path / "fresh").keys()
    stores = (tmp_path / "store", tmp_path / "fresh")
    tables = [resolved(path, read_pairs(path, "rows")) for path in stores]
    assert tables[0] == tables[1]
    assert verify_store(tmp_path / "store").problems == []


class NegativesFail:
    """A backbone that fails at sequences of negative numbers."""

    def __init__(self) -> None:
        self.tried: list[int] = []

    def reference_vector(self, ids: np.ndarray) -> np.ndarray:
        self.tried.append(int(ids[0]))
        return np.full(2, ids[0] if ids[0] >= 0 else np.nan, np.float32)


def guard(**changes: Any) -> tuple[FailureGuard, NegativesFail]:
    backbone = NegativesFail()
    settings = {"proven": False, "known_failures": np.empty(0, "S16")} | changes
    return FailureGuard(backbone, "tiny", **settings), backbone


def sequences(*numbers: int) -> list[np.ndarray]:
    return [np.array([number]) for number in numbers]


def test_neighbours_of_a_bad_sequence_are_computed_again_alone() -> None:
    made, backbone = guard()
    vectors = np.array([[np.nan] * 2, [7, 7], [np.inf, 0]], np.float32)
    made.recompute_nonfinite(sequences(1, 2, -3), vectors)
    np.testing.assert_array_equal(vectors, [[1, 1], [7, 7], [np.nan] * 2])
    assert backbone.tried == [1, -3] and made.proven


def test_a_first_pass_without_a_finite_vector_stops_the_job_soon() -> None:
    made, backbone = guard()
    numbers = range(-100, 0)
    with pytest.raises(
        StoreError, match=r"NaN or infinity for 100 of 100 .* also alone; try backbone.dtype"
    ):
        made.recompute_nonfinite(sequences(*numbers), np.full((100, 2), np.nan, np.float32))
    assert len(backbone.tried) == failures.TOLERATED_FAILURES


def test_a_backbone_that_has_worked_may_fail_at_a_whole_pass() -> None:
    made, backbone = guard(proven=True)
    made.recompute_nonfinite(sequences(*range(-100, 0)), np.full((100, 2), np.nan, np.float32))
    assert len(backbone.tried) == 100


@pytest.mark.parametrize(("bad", "stops"), [(20, False), (21, True)])
def test_more_than_half_of_a_shard_stops_the_job(bad: int, stops: bool) -> None:
    made, _ = guard(proven=True)
    vectors = np.ones((40, 2), np.float32)
    vectors[:bad] = np.nan
    keys = np.array([b"%016d" % number for number in range(40)])
    if stops:
        with pytest.raises(StoreError, match="NaN or infinity for 21 of 40 sequences of a shard"):
            made.failed_mask(keys, vectors)
        made = replace(made, known_failures=keys[:25])  # of 15 new ones none has failed
    assert made.failed_mask(keys, vectors).sum() == bad
