"""Names, keys, identity and manifest, on which writer, reader and verifier agree."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from micro_rm.cache.manifest import read_manifest, write_manifest
from micro_rm.cache.schema import (
    LOGICAL,
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
from micro_rm.common.files import write_json
from micro_rm.tests.cache.stores import edit_manifest, make_identity


@pytest.fixture
def manifest() -> Manifest:
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
    assert sequence_key([1, 2, 3]).hex() == "a76f94d1118f3bcfe6d1006dda205ce7"


def test_every_field_of_an_identity_counts_but_names_for_people() -> None:
    mine = make_identity()
    old = asdict(mine)
    new = {name: value + 1 if name == "max_length" else f"{value}x" for name, value in old.items()}
    assert mine.differences(mine) == []
    assert mine.differences(Identity(**new)) == [
        f"{name}: the store has {old[name]!r}, this run has {new[name]!r}"
        for name in old
        if name not in ("backbone", "revision")
    ]
    assert not old.keys() & {"bin_tokens", "device", "attention", "shard_tokens", "shards"}


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
        (("shards", 0, "name"), "000001.h5", "each listed once"),
        (("shards", 0, "rows"), -1, "the rows of 000000.h5"),
        (("shards", 0, "rows"), 1.0, "the rows of 000000.h5"),
        (("shards", 0, "rows"), 1 << 60, "the rows of 000000.h5"),
        (("shards", 0, "checksum"), "A" * 32, "the checksum of 000000.h5"),
        (("shards", 0, "job"), None, "the job of 000000.h5"),
        (("shards", 0), "000000.h5", "a shard: expected a JSON object"),
        (("shards", 0), {"name": "000000.h5"}, "no 'job'"),
        (("shards",), None, "shards: expected a list"),
        (("files", "pairs/../../x.h5"), [], "a file's name"),
        (("files", "shards/000000.h5"), [], "a file's name"),
        (("files", "pairs/a.h5"), {}, "expected a list"),
        (("files", "pairs/a.h5"), ["x"], "the entry of pairs/a.h5"),
        (("files", "pairs/a.h5"), [{"bytes": 1}], "checksum"),
        (("files",), [], "files: expected a JSON object"),
        (("identity",), None, "identity: expected a JSON object"),
        (("identity", "x"), "y", "identity: expected the fields"),
        (("identity", "dtype"), "float16", "identity.dtype"),
        (("identity", "max_length"), "4096", "identity.max_length"),
        (("width",), 0, "width: expected 1 or more"),
        (("width",), True, "width"),
        (("next_shard",), None, "next_shard"),
    ],
)
def test_what_a_manifest_may_not_say_is_refused_even_under_a_right_checksum(
    path: tuple[Any, ...], value: Any, words: str, tmp_path: Path, manifest: Manifest
) -> None:
    write_manifest(tmp_path, manifest)

    def edit(raw: Any) -> None:
        for part in path[:-1]:
            raw = raw[part]
        raw[path[-1]] = value

    edit_manifest(tmp_path, edit)
    with pytest.raises(StoreError, match=f"damaged manifest .*{words}.*--rebuild"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b'{"format": 2', b"\xff\xfe", b"[]", b"{}", b"[" * 100_000])
def test_a_damaged_manifest_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"manifest\.json: damaged manifest .* restore it"):
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


def test_a_checksum_is_that_of_all_bytes(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes((1 << 22) + 17)
    (tmp_path / "a").write_bytes(content)
    assert file_checksum(tmp_path / "a") == xxhash.xxh3_128_hexdigest(content)


def test_json_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"long": "x" * 1000})
    write_json(path, {"short": "\u00e9"})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text("utf-8")) == {"short": "\u00e9"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", np.nan), ("bfloat16", np.inf), ("float32", -np.inf)]
)
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
