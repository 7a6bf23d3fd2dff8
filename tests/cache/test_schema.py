"""Names, keys, identity and manifest, on which writer, reader and verifier agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_rm.cache.hdf5 import dataset
from micro_rm.cache.manifest import read_manifest, write_manifest
from micro_rm.cache.schema import (
    DESCRIPTIVE,
    LOGICAL,
    PHYSICAL,
    FileSum,
    Identity,
    Manifest,
    Shard,
    StoreError,
    file_checksum,
    first_not_finite,
    sequence_key,
)
from micro_rm.common.errors import UserError
from micro_rm.common.files import commit_file, write_json

MakeIdentity = Callable[..., Identity]


@pytest.fixture
def manifest(make_identity: MakeIdentity) -> Manifest:
    shards = (
        Shard("000000.h5", 5, 900, "a" * 32, "job"),
        Shard("000001.h5", 2, 800, "b" * 32, "job"),
    )
    files = {"pairs/a.h5": (FileSum(7, "c" * 32), FileSum(8, "d" * 32))}
    return Manifest(make_identity("bfloat16"), 3072, shards, files, next_shard=4)


def test_a_key_is_the_hash_of_little_endian_token_ids() -> None:
    expected = xxhash.xxh3_128_digest(b"\x01\x00\x00\x00\x00\xf5\x01\x00")
    assert sequence_key([1, 128_256]) == expected
    assert sequence_key(np.array([1, 128_256], np.int64)) == expected
    assert sequence_key(np.array([1, 128_256], ">i4")) == expected
    assert len(expected) == 16


def test_keys_do_not_change_between_versions() -> None:
    """Stored vectors are looked up by these very bytes."""
    assert sequence_key([1, 2, 3]).hex() == "a76f94d1118f3bcfe6d1006dda205ce7"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6).map(tuple), unique=True)
)
def test_different_sequences_have_different_keys(sequences: list[tuple[int, ...]]) -> None:
    assert len({sequence_key(ids) for ids in sequences}) == len(sequences)


@pytest.mark.parametrize("name", [field.name for field in fields(Identity)])
def test_every_field_of_an_identity_counts_but_mere_names(
    name: str, make_identity: MakeIdentity
) -> None:
    mine = make_identity()
    value = getattr(mine, name)
    theirs = replace(mine, **{name: value + 1 if name == "max_length" else f"{value}x"})
    other = getattr(theirs, name)
    expected = [f"{name}: the store has {value!r}, this run has {other!r}"]
    assert mine.differences(theirs) == ([] if name in DESCRIPTIVE else expected)
    assert mine.differences(mine) == []


def test_only_names_for_people_are_merely_descriptive() -> None:
    assert set(DESCRIPTIVE) == {"backbone", "revision"}


def test_how_a_pass_runs_is_no_part_of_the_identity() -> None:
    names = {field.name for field in fields(Identity)}
    assert not names & {"bin_tokens", "device", "attention", "shard_tokens", "sharing", "shards"}


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert manifest.rows == 7
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_path_without_a_store_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreError, match=r"no store here .* run micro-rm embed"):
            read_manifest(path)
    assert issubclass(StoreError, UserError)


@pytest.mark.parametrize(
    ("version", "needs", "words"),
    [
        (3, "0.9.1", r"format 3 needs micro-rm 0\.9\.1 or newer; this is .* up to 2; upgrade"),
        (99, None, "format 99 needs a newer micro-rm or newer"),
        (0, None, r"damaged manifest \(format: expected one of \(1, 2\), found '0'\)"),
        ("1", None, "damaged manifest"),
        (True, None, "damaged manifest"),
    ],
)
def test_a_manifest_of_another_format_is_refused(
    version: Any, needs: str | None, words: str, tmp_path: Path, manifest: Manifest
) -> None:
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    raw = json.loads(path.read_text()) | {"format": version, "needs": needs, "unheard-of": 1}
    path.write_text(json.dumps(raw))
    with pytest.raises(StoreError, match=words):
        read_manifest(tmp_path)


def test_a_manifest_of_format_1_is_read_and_written_as_format_2(
    tmp_path: Path, manifest: Manifest
) -> None:
    old = {
        "format": 1,
        "identity": asdict(manifest.identity),
        "width": 3072,
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(old, indent=2) + "\n")
    loaded = read_manifest(tmp_path)
    assert loaded == replace(manifest, files={}, next_shard=2, format=1)
    write_manifest(tmp_path, loaded)
    assert json.loads(path.read_text())["format"] == 2
    assert read_manifest(tmp_path) == replace(loaded, format=2)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("shards", 0, "name"), "../000000.h5", "a shard's name"),
        (("shards", 0, "name"), "/etc/passwd", "a shard's name"),
        (("shards", 0, "name"), "000001.h5", "each listed once"),
        (("shards", 0, "rows"), -1, "the rows of 000000.h5"),
        (("shards", 0, "rows"), 1.0, "the rows of 000000.h5"),
        (("shards", 0, "rows"), 1 << 60, "the rows of 000000.h5"),
        (("shards", 0, "checksum"), "A" * 32, "the checksum of 000000.h5"),
        (("shards", 0, "job"), None, "the job of 000000.h5"),
        (("files", "pairs/../../x.h5"), [], "a file's name"),
        (("files", "shards/000000.h5"), [], "a file's name"),
        (("files", "pairs/a.h5"), {}, "expected a list"),
        (("files", "pairs/a.h5"), [{"bytes": 1}], "checksum"),
        (("identity", "dtype"), "float16", "identity.dtype"),
        (("identity", "max_length"), "4096", "identity.max_length"),
        (("width",), 0, "width: expected 1 or more"),
        (("width",), True, "width"),
        (("next_shard",), None, "next_shard"),
    ],
)
def test_what_a_manifest_may_not_say_is_refused_even_under_a_right_checksum(
    path: tuple[Any, ...],
    value: Any,
    words: str,
    tmp_path: Path,
    manifest: Manifest,
    edit_manifest: Callable[..., None],
) -> None:
    write_manifest(tmp_path, manifest)

    def edit(raw: dict[str, Any]) -> None:
        node: Any = raw
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value

    edit_manifest(tmp_path, edit)
    with pytest.raises(StoreError, match=f"damaged manifest .*{words}.*--rebuild"):
        read_manifest(tmp_path)


def test_any_change_of_a_manifest_breaks_its_checksum(tmp_path: Path, manifest: Manifest) -> None:
    """Except in white space, which the checksum leaves out."""
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    honest = path.read_bytes()
    for offset in range(0, len(honest), 3):
        path.write_bytes(honest[:offset] + bytes([honest[offset] ^ 1]) + honest[offset + 1 :])
        try:
            assert read_manifest(tmp_path) == manifest and honest[offset : offset + 1].isspace()
        except StoreError as error:
            assert "manifest.json" in str(error)


def damage(raw: dict[str, Any], name: str) -> Any:
    """One kind of damage to a manifest."""
    shard = raw["shards"][0]
    return {
        "truncated": json.dumps(raw)[:-30],
        "empty": "",
        "not UTF-8": b"\xff\xfe",
        "a list": "[]",
        "null": "null",
        "no format": {key: value for key, value in raw.items() if key != "format"},
        "no identity": raw | {"identity": None},
        "a field of the identity missing": raw | {"identity": {"backbone": "x"}},
        "an unknown field of the identity": raw | {"identity": raw["identity"] | {"x": 1}},
        "no width": {key: value for key, value in raw.items() if key != "width"},
        "a width in words": raw | {"width": "wide"},
        "shards null": raw | {"shards": None},
        "a shard in words": raw | {"shards": ["000000.h5"]},
        "a shard without checksum": raw
        | {"shards": [{key: value for key, value in shard.items() if key != "checksum"}]},
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "truncated",
        "empty",
        "not UTF-8",
        "a list",
        "null",
        "no format",
        "no identity",
        "a field of the identity missing",
        "an unknown field of the identity",
        "no width",
        "a width in words",
        "shards null",
        "a shard in words",
        "a shard without checksum",
    ],
)
def test_a_damaged_manifest_is_named(name: str, tmp_path: Path, manifest: Manifest) -> None:
    write_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    value = damage(json.loads(path.read_text()), name)
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(StoreError, match=r"manifest\.json: damaged manifest .* restore it"):
        read_manifest(tmp_path)


def test_json_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"long": "x" * 1000})
    write_json(path, {"short": "\u00e9"})
    assert json.loads(path.read_text("utf-8")) == {"short": "\u00e9"}
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_a_committed_file_has_its_final_name_only(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").write_bytes(b"new")
    (tmp_path / "a").write_bytes(b"old")
    commit_file(tmp_path / "a.tmp", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_checksum_is_that_of_all_bytes(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes((1 << 22) + 17)
    (tmp_path / "a").write_bytes(content)
    assert file_checksum(tmp_path / "a") == xxhash.xxh3_128_hexdigest(content)


def test_a_missing_data_set_of_a_file_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("there", data=[1])
        file.create_group("group")
        assert dataset(file, "there")[0] == 1
        for name in ("nowhere", "group"):
            with pytest.raises(StoreError, match=rf"a\.h5: no data set '{name}'"):
                dataset(file, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_physical_and_logical_types_have_the_same_bits(dtype: str) -> None:
    assert PHYSICAL[dtype].itemsize == LOGICAL[dtype].itemsize


@pytest.mark.parametrize("dtype", list(LOGICAL))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_found(dtype: str, value: float) -> None:
    """In any block, beside the largest numbers, zeros of both signs and subnormals."""
    logical = LOGICAL[dtype]
    vectors = np.zeros((700, 1000), logical)
    vectors[0, :4] = np.array([3.3e38, -3.3e38, -0.0, 1e-40], np.float32).astype(logical)
    assert first_not_finite(vectors) is None
    for row in (699, 523, 0):
        vectors[row, row] = value
        assert first_not_finite(vectors) == row
    assert first_not_finite(vectors[:0]) is None
