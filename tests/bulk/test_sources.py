"""What SOURCE may be: each kind gives the same pictures, whatever the size of a part."""

import base64
import contextlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from bulk.files import filled
from bulk.parts import encode, read_part
from bulk.rows import Column
from bulk.source import Listed, Source, slice_from_json
from errors import BulkError
from models.card import Card, read_card
from tests.linear import CARD, FEATURE
from tests.tiny import plain, tiny_package

LIMIT = 1000
DATA = [plain(level) for level in range(7)]


@pytest.fixture(scope="module")
def pictures_card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return read_card(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny") / "card.toml")


@pytest.fixture(scope="module")
def rows_card(tmp_path_factory: pytest.TempPathFactory) -> Card:
    file = tmp_path_factory.mktemp("rows") / "card.toml"
    file.write_text(CARD + "".join(FEATURE.format(place=place) for place in range(2)))
    return read_card(file)


def listed(source: object, card: Card, part_rows: int = 3, **columns: str) -> list[Listed]:
    return list(Source(str(source), card, columns, part_rows).slices())


def payloads(slices: list[Listed]) -> list[Any]:
    """What all items of all slices hold, or their errors; each slice is read as another machine would read it."""
    return [
        item.payload if item.payload is not None else item.error
        for part, _ in slices
        for chunk in slice_from_json(part.to_json()).chunks(LIMIT)
        for item in chunk
    ]


def as_files(folder: Path) -> Path:
    for place, data in enumerate(DATA):
        (folder / f"{place}.png").write_bytes(data)
    return folder


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("inside")
        for place, data in enumerate(DATA):
            archive.writestr(f"inside/{place}.png", data)
        archive.writestr("__MACOSX/._0.png", b"none")
    return folder / "pictures.zip"


def as_csv_of_paths(folder: Path) -> Path:
    as_files(folder)
    lines = [f'{place}.png,"a note,\nof two lines"\n' for place in range(len(DATA))]
    (folder / "table.csv").write_text("\ufeffFile,note\r\n" + "".join(lines), newline="")
    return folder / "table.csv"


def as_csv_of_bytes(folder: Path) -> Path:
    lines = [base64.b64encode(data).decode() for data in DATA]
    (folder / "table.csv").write_text("note;base64\n" + "".join(f"x;{line}\n\n" for line in lines))
    return folder / "table.csv"


def as_parquet_of_bytes(folder: Path) -> Path:
    table = pyarrow.table({"image": [{"bytes": data, "path": "x.png"} for data in DATA]})
    parquet.write_table(table, folder / "table.parquet", row_group_size=4)
    return folder / "table.parquet"


def as_parquet_of_paths(folder: Path) -> Path:
    as_files(folder)
    table = pyarrow.table({"filename": [str(folder / f"{place}.png") for place in range(len(DATA))]})
    parquet.write_table(table, folder / "table.parquet", row_group_size=2)
    return folder / "table.parquet"


KINDS = [as_files, as_zip, as_csv_of_paths, as_csv_of_bytes, as_parquet_of_bytes, as_parquet_of_paths]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("part_rows", [1, 3, 100])
def test_each_kind_of_source_gives_the_pictures_in_their_order(
    pictures_card: Card, tmp_path: Path, make: Callable[[Path], Path], part_rows: int
) -> None:
    slices = listed(make(tmp_path), pictures_card, part_rows)
    assert payloads(slices) == DATA
    full, rest = divmod(len(DATA), part_rows)
    assert [part.count for part, _ in slices] == [part_rows] * full + [rest] * bool(rest)
    names = [item.input for part, _ in slices for chunk in part.chunks(LIMIT) for item in chunk]
    assert len(set(names)) == len(DATA)


def test_a_glob_takes_what_it_matches_and_a_folder_leaves_other_files_out(pictures_card: Card, tmp_path: Path) -> None:
    as_files(tmp_path)
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    (tmp_path / "deep" / "without suffix").write_bytes(DATA[0])
    (tmp_path / "deep" / ".hidden" / "0.png").write_bytes(DATA[0])
    source = Source(str(tmp_path), pictures_card, {}, 100)
    assert payloads(list(source.slices())) == DATA and source.ignored == 1
    assert payloads(listed(tmp_path / "[3-5].png", pictures_card)) == DATA[3:6]
    (tmp_path / "deep" / "leads nowhere.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "deep" / "pipe.png")
    nowhere, pipe = payloads(listed(tmp_path / "deep", pictures_card))
    assert "No such file" in nowhere and "a pipe" in pipe
    assert payloads(listed(tmp_path / "**" / "without*", pictures_card)) == [DATA[0]]


def test_what_cannot_be_read_is_an_item_with_an_error_and_costs_the_others_nothing(
    pictures_card: Card, tmp_path: Path
) -> None:
    as_files(tmp_path)
    slices = listed(tmp_path, pictures_card)
    (tmp_path / "1.png").unlink()
    (tmp_path / "4.png").write_bytes(b"x" * (LIMIT + 1))
    got = payloads(slices)
    assert got[0] == DATA[0] and got[2:4] == DATA[2:4] and got[5:] == DATA[5:]
    assert "No such file" in got[1] and "1,000" in got[4]
    table = tmp_path / "table.csv"
    table.write_text("bytes,note\n!!!,a\n,b\n" + base64.b64encode(DATA[0]).decode() + ",c\nodd,d,e\n")
    wrong, empty, right, odd = payloads(listed(table, pictures_card))
    assert "base64" in wrong and "empty" in empty and right == DATA[0] and "3 cells" in odd


def test_a_damaged_member_or_row_group_costs_no_other_part(pictures_card: Card, tmp_path: Path) -> None:
    archive = as_zip(tmp_path)
    slices = listed(archive, pictures_card)
    data = bytearray(archive.read_bytes())
    place = data.index(b"inside/2.png") + len(b"inside/2.png") + 4
    data[place : place + 8] = b"\xff" * 8
    archive.write_bytes(data)
    (tmp_path / "moved").mkdir()
    moved = archive.rename(tmp_path / "moved" / "pictures.zip")
    got = payloads([Listed(slice_from_json(part.to_json() | {"archive": str(moved)}), "") for part, _ in slices])
    assert "cannot be unpacked" in got[2] and got[:2] == DATA[:2] and got[3:] == DATA[3:]
    table = as_parquet_of_bytes(tmp_path)
    parts = [part.to_json() | {"changed": "cut off"} for part, _ in listed(table, pictures_card)]
    whole = table.read_bytes()
    table.write_bytes(whole[:100] + b"\xff" * 200 + whole[300:])
    assert all(
        item.payload or "cannot be read" in item.error
        for part in parts
        for chunk in slice_from_json(part).chunks(LIMIT)
        for item in chunk
    )


def test_rows_are_read_by_the_names_that_the_model_has_for_them(rows_card: Card, tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    columns = {"x1": [1.5, float("nan")], "first": [2, None], "beside": ["a", "b"]}
    parquet.write_table(pyarrow.table(columns), table)
    assert payloads(listed(table, rows_card, x0="first")) == [{"x0": 2, "x1": 1.5}, {"x0": None, "x1": None}]
    with pytest.raises(BulkError, match=r"x1, first, beside; linear also takes x0.*--column x0=COLUMN"):
        listed(table, rows_card)
    with pytest.raises(BulkError, match="takes x0, x1"):
        listed(table, rows_card, x7="first")
    (tmp_path / "picture.png").write_bytes(DATA[0])
    with pytest.raises(BulkError, match="takes rows"):
        listed(tmp_path / "picture.png", rows_card)


def test_a_chunk_holds_few_bytes_unless_one_file_has_more() -> None:
    mib = 2**20
    chunks = [(part.start, part.stop) for part in filled([mib] * 20 + [40 * mib] + [0] * 300)]
    assert chunks == [(0, 16), (16, 20), (20, 21), (21, 277), (277, 321)]


def test_a_table_that_is_none_says_so(pictures_card: Card, tmp_path: Path) -> None:
    for name, content in (("a.csv", b"path\n\xff\xfe\n"), ("a.parquet", b"PAR1"), ("a.zip", b"PK")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BulkError, match=r"not UTF-8|no Parquet file|no zip archive"):
            listed(tmp_path / name, pictures_card)


def test_a_table_that_can_be_read_in_two_ways_is_not_guessed_at(pictures_card: Card, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text('path\n0.png\n"1.png\n2.png\n3.png\n')
    with pytest.raises(BulkError, match="quote that opens in row 2 is closed nowhere"):
        listed(table, pictures_card)
    table.write_bytes(b"path\r0.png\r1.png\r")
    with pytest.raises(BulkError, match=r"table\.csv, after row 0: new-line character"):
        listed(table, pictures_card)
    table.write_text("path,path\n0.png,1.png\n")
    with pytest.raises(BulkError, match="path is there 2 times"):
        listed(table, pictures_card)
    table.write_text('"path","a note\nof two lines"\n0.png,"x\n\n"\n')  # and an end in a closed quote
    as_files(tmp_path)
    assert payloads(listed(table, pictures_card, 1)) == DATA[:1]


def test_members_of_one_name_are_rows_of_their_own(pictures_card: Card, tmp_path: Path) -> None:
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("same.png", DATA[0])
        for data in DATA[1:3]:
            with pytest.warns(UserWarning, match="Duplicate name"):
                file.writestr("same.png", data)
    assert payloads(listed(archive, pictures_card, 2)) == DATA[:3]


def test_an_archive_damaged_anywhere_is_said_to_be_none_or_costs_rows_alone(
    pictures_card: Card, tmp_path: Path
) -> None:
    whole, random = as_zip(tmp_path).read_bytes(), np.random.default_rng(0)
    for place in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole) * 2 // 3, len(whole))] = random.integers(256)  # most of it in the directory
        archive = tmp_path / f"{place}.zip"
        archive.write_bytes(damaged)
        slices = list[Listed]()
        with contextlib.suppress(BulkError):
            slices = listed(archive, pictures_card)
        assert len(payloads(slices)) == sum(part.count for part, _ in slices)


def test_each_address_of_a_table_is_fetched_from_its_own_store_by_its_own_name(
    pictures_card: Card, tmp_path: Path
) -> None:
    store = fsspec.filesystem("memory")
    for place, name in enumerate(("scan[0].png", "scan0.png", "scan*.png")):
        store.pipe(f"/own/{name}", DATA[place])
    store.pipe("/own/large.png", b"x" * (LIMIT + 1))
    as_files(tmp_path)
    paths = ["memory://own/scan[0].png", "nowhere://0.png", "memory://own/scan0.png", (tmp_path / "3.png").as_uri()]
    paths += ["memory://own/scan*.png", "memory://own/none.png", "memory://own/large.png", "3.png"]
    table = tmp_path / "table.csv"
    table.write_text("path\n" + "".join(f"{path}\n" for path in paths))
    got = payloads(listed(table, pictures_card, 100))
    assert [got[place] for place in (0, 2, 4, 3, 7)] == [*DATA[:3], DATA[3], DATA[3]]
    assert "no kind of address" in got[1] and "No such file" in got[5] and "at most 1,000" in got[6]


def test_a_link_to_a_folder_is_counted_and_one_that_leads_back_is_gone_through_once(
    pictures_card: Card, tmp_path: Path
) -> None:
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place, name in enumerate(("pictures/0.png", "pictures/deep/1.png", "elsewhere/2.png")):
        (tmp_path / name).write_bytes(DATA[place])
    (tmp_path / "pictures" / "deep" / "back").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "other").symlink_to(tmp_path / "elsewhere")
    source = Source(str(tmp_path / "pictures"), pictures_card, {}, 100)
    assert payloads(list(source.slices())) == DATA[:2] and source.ignored == 2
    assert payloads(listed(tmp_path / "pictures" / "**" / "*.png", pictures_card)) == DATA[:3]


def test_names_may_hold_anything_that_a_file_system_takes(pictures_card: Card, tmp_path: Path) -> None:
    names = ["=1+1,\r\n\"'.png", "\u2028ü\t.png", os.fsdecode(b"\xff.png")]
    for place, name in enumerate(names):
        (tmp_path / name).write_bytes(DATA[place])
    (tmp_path / "nothing.png").touch()
    (part,) = listed(tmp_path, pictures_card, 100)
    (chunk,) = slice_from_json(json.loads(json.dumps(part.slice.to_json()))).chunks(LIMIT)
    got = {os.path.basename(item.input): item.payload for item in chunk}
    assert got == dict(zip(names, DATA, strict=False)) | {"nothing.png": b""}
    columns = [Column("input", "text"), Column("error", "text")]
    rows: list[dict[str, Any]] = [{"input": item.input, "error": "a\rb"} for item in chunk]
    for form in ("csv", "jsonl", "parquet"):
        (tmp_path / "part").write_bytes(encode(rows, columns, form))
        read = list(read_part(tmp_path / "part", columns, form))
        assert [row["input"] for row in read[:3]] == [row["input"] for row in rows[:3]]
        assert len(read) == 4 and {row["error"] for row in read} == {"a\rb"}
