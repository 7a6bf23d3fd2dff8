"""Pair tables: written atomically, read back as they were, missing ones explained."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from micro_rm.cache.pairs import (
    NO_ROW,
    ROLES,
    TEXT_COLUMNS,
    VIEWS,
    PairWriter,
    pairs_path,
    read_account,
    read_pairs,
    read_request,
    table_names,
    write_pairs,
)
from micro_rm.cache.schema import StoreError
from micro_rm.tests.cache.stores import make_table


@pytest.mark.parametrize("rows", [[3, NO_ROW, 5, 5], list(range(300))])
def test_a_table_comes_back_as_it_was_written(rows: list[int], tmp_path: Path) -> None:
    table = make_table(rows, name="my-data.v2")
    path = write_pairs(tmp_path, table)
    assert path == pairs_path(tmp_path, "my-data.v2") == tmp_path / "pairs" / "my-data.v2.h5"
    loaded = read_pairs(tmp_path, "my-data.v2")
    assert len(loaded) == len(rows)
    assert (loaded.name, loaded.request) == (table.name, table.request)
    assert (loaded.settings, loaded.account) == (table.settings, table.account)
    assert loaded.text == table.text
    assert loaded.rows.keys() == table.rows.keys()
    for name, values in table.rows.items():
        assert loaded.rows[name].tolist() == values.tolist()
    for role, values in table.tokens.items():
        assert loaded.tokens[role].tolist() == values.tolist()
    assert loaded.source_row.tolist() == table.source_row.tolist()
    assert loaded.pool.dtype == bool and loaded.pool.tolist() == table.pool.tolist()
    np.testing.assert_array_equal(loaded.margin, table.margin.astype(np.float32))
    assert loaded.ratings == {}


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
        hnp.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_infinity=False)),
        max_size=4,
    )
)
@example(dict.fromkeys(["a/b", ".", "..", "/", "0001", "text"], np.full((3, 2), np.nan)))
@settings(deadline=None, max_examples=30)
def test_ratings_come_back_under_any_name_and_in_their_order(
    ratings: dict[str, np.ndarray],
) -> None:
    """Names come from the data: slashes, dots and emoji included."""
    with tempfile.TemporaryDirectory() as directory:
        write_pairs(Path(directory), make_table([0, 1, 2], ratings=ratings))
        loaded = read_pairs(Path(directory), "rows")
    assert list(loaded.ratings) == list(ratings) and loaded.text["split"] == ["train"] * 3
    for name, rating_Nx2 in ratings.items():
        assert loaded.ratings[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.ratings[name], rating_Nx2)


def test_texts_of_any_script_survive(tmp_path: Path) -> None:
    odd = ["", " \n\t ", "\u00e9\u4e2d\U0001f600", "a" * 100_000, '"\\u0041"', "\u2028"]
    table = make_table(range(len(odd)), text={column: odd for column in TEXT_COLUMNS})
    write_pairs(tmp_path, table)
    assert read_pairs(tmp_path, "rows").text == table.text


def test_every_view_and_role_has_its_column(tmp_path: Path) -> None:
    rows = {
        f"{view}/{role}": np.array([3 * i + j])
        for i, view in enumerate(VIEWS)
        for j, role in enumerate(ROLES)
    }
    write_pairs(tmp_path, make_table([0], rows=rows))
    loaded = read_pairs(tmp_path, "rows").rows
    assert {name: values.tolist() for name, values in loaded.items()} == {
        name: values.tolist() for name, values in rows.items()
    }


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_pairs(tmp_path, make_table([1, 2]))
    with pytest.raises(TypeError):
        write_pairs(tmp_path, make_table([1, 2, 3], account={"bad": object()}))
    assert len(read_pairs(tmp_path, "rows")) == 2


def test_a_missing_table_is_explained_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no pair table 'x' \(found: none\); run micro-rm embed"):
        read_pairs(tmp_path, "x")
    write_pairs(tmp_path, make_table(name="b.c"))
    write_pairs(tmp_path, make_table(name="a"))
    assert table_names(tmp_path) == ["a", "b.c"]
    with pytest.raises(StoreError, match=r"\(found: a, b\.c\)"):
        read_pairs(tmp_path, "x")


def test_writing_again_replaces_a_table_whose_head_is_read_alone(tmp_path: Path) -> None:
    assert read_request(tmp_path, "rows") is None
    write_pairs(tmp_path, make_table(range(50)))
    account = {"rows": 2, "refused": 1}
    write_pairs(tmp_path, make_table([1, 2], request="another", account=account))
    assert len(read_pairs(tmp_path, "rows")) == 2
    assert read_request(tmp_path, "rows") == "another"
    assert read_account(tmp_path, "rows") == account
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["rows.h5"]


@pytest.mark.parametrize("missing", ["source_row", "text/chosen", "tokens/rejected"])
def test_a_table_without_one_of_its_columns_is_refused(missing: str, tmp_path: Path) -> None:
    path = write_pairs(tmp_path, make_table())
    with h5py.File(path, "r+") as file:
        del file[missing]
    with pytest.raises(StoreError, match=rf"rows\.h5: no data set '{missing}'"):
        read_pairs(tmp_path, "rows")


@pytest.mark.parametrize(
    ("place", "attribute"), [("/", "settings"), ("/", "account"), ("ratings/0000", "attribute")]
)
def test_a_table_without_one_of_its_attributes_is_refused(
    place: str, attribute: str, tmp_path: Path
) -> None:
    path = write_pairs(tmp_path, make_table([0], ratings={"help": np.zeros((1, 2))}))
    with h5py.File(path, "r+") as file:
        del file[place].attrs[attribute]
    with pytest.raises(StoreError, match=r"damaged pair table .*run micro-rm embed"):
        read_pairs(tmp_path, "rows")


def test_a_table_with_a_damaged_attribute_is_refused(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, make_table())
    with h5py.File(path, "r+") as file:
        file.attrs["settings"] = "{"
    with pytest.raises(StoreError, match=r"damaged pair table .*run micro-rm embed"):
        read_pairs(tmp_path, "rows")


def test_a_table_that_is_no_hdf5_file_is_refused(tmp_path: Path) -> None:
    pairs_path(tmp_path, "rows").parent.mkdir()
    pairs_path(tmp_path, "rows").write_bytes(b"hello")
    for read in (read_pairs, read_request):
        with pytest.raises(StoreError, match="not readable as HDF5"):
            read(tmp_path, "rows")


def columns(start: int, number: int) -> dict[str, list[str]]:
    return {
        column: [f"{column} {index} \u00e9" for index in range(start, start + number)]
        for column in TEXT_COLUMNS
    }


@pytest.mark.parametrize("sizes", [[3, 0, 4], [0, 7], [1500, 1500, 1500]])
def test_texts_that_come_block_by_block_make_the_same_table(
    sizes: list[int], tmp_path: Path
) -> None:
    total = sum(sizes)
    table = make_table(range(total), text={})
    with PairWriter(tmp_path, "rows") as writer:
        for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
            writer.add_text(columns(int(start), size))
        writer.finish(table)
    loaded = read_pairs(tmp_path, "rows")
    assert len(loaded) == total and loaded.text == columns(0, total)
    assert loaded.source_row.tolist() == table.source_row.tolist()


def test_equal_blocks_make_equal_files(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        with PairWriter(tmp_path / name, "rows") as writer:
            for start in range(0, 8, 4):
                writer.add_text(columns(start, 4))
            paths.append(writer.finish(make_table(range(8), text={})))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_writer_that_does_not_finish_leaves_the_old_table_and_no_file(tmp_path: Path) -> None:
    write_pairs(tmp_path, make_table([1, 2]))
    with pytest.raises(KeyboardInterrupt), PairWriter(tmp_path, "rows") as writer:
        writer.add_text(columns(0, 3))
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "pairs").iterdir()] == ["rows.h5"]
    assert len(read_pairs(tmp_path, "rows")) == 2


def test_a_table_holds_no_time(tmp_path: Path) -> None:
    """By default HDF5 stores the time of creation, and equal tables would be different files."""
    path = write_pairs(tmp_path, make_table(ratings={"help": np.zeros((3, 2))}))
    names: list[str] = []

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(name)
            assert h5py.h5g.get_objinfo(item.id).mtime == 0, name

    with h5py.File(path, "r") as file:
        file.visititems(look)
    assert len(names) == len(TEXT_COLUMNS) + 9
