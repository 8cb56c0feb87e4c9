"""Runs that are stopped, by whatever it is, and taken up: every input is answered once, nothing twice, nothing half."""

import contextlib
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulk.folder import OutputFolder
from models.store import import_package
from tests.bulk.scoring import (
    begin,
    end,
    fail,
    is_root,
    parts_in,
    probability_of_plain,
    rows_in,
    serving_pictures,
    succeed,
    table_of,
)
from tests.live.server import environment, wait_until
from tests.tiny import plain, tiny_package

LEVELS = {f"{level}.png": level for level in range(0, 240, 6)}
NAMES = [*LEVELS, *list(LEVELS)[:8]]
"""48 names, of which the last 8 are those of the first 8 again."""
LEFT_BUT_60_KIB = 452 * 1024
"""What fills a disk of 512 KiB so far that the listing has room, and the parts do not."""


def computed(printed: str) -> int:
    (number,) = re.findall(r"([\d,]+) inputs were computed", printed)
    return int(number.replace(",", ""))


def another_version(folder: Path) -> str:
    """Install a version of the tiny model that differs by its description; gives its tag."""
    package = tiny_package(folder, explained=True)
    (package / "card.toml").write_text((package / "card.toml").read_text().replace("Averages", "Still averages"))
    return import_package(package)[0].tag


def check_rows(out: Path, names: list[str], tag: str) -> None:
    """Fail unless every name is answered once, in order, as its level says, by that version."""
    rows = rows_in(out)
    assert [row["input"].rpartition("/")[2] for row in rows] == names
    for row, name in zip(rows, names, strict=True):
        expected = probability_of_plain(LEVELS[name])
        assert row["error"] is None and row["model"] == tag
        assert row["probabilities"]["bright"] == pytest.approx(expected, abs=1e-6)


def test_a_run_that_is_killed_goes_on_where_it_was_and_reads_nothing_again(
    tiny: str, home: Path, tmp_path: Path
) -> None:
    pictures = {name: plain(level) for name, level in LEVELS.items()}
    with serving_pictures(pictures) as served:
        served.hold([NAMES[30]])  # which part 3 needs
        table, out = table_of(tmp_path / "table.csv", served, NAMES), tmp_path / "out"
        arguments = (table, "--model", "tiny", "--out", out, "--part-rows", "8")
        process = begin(home, *arguments)
        wait_until(lambda: len(parts_in(out)) >= 3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = parts_in(out)
        (out / ".part-000003.jsonl.0a1b2c3d").write_bytes(b"{half")  # as a kill in the midst of writing leaves one
        before = {name: (out / name).read_bytes() for name in there}
        assert NAMES[30] in served.fetched
        served.fetched.clear()
        served.release()
        assert "Go on with it by --resume" in fail(*arguments)
        printed = end(begin(home, *arguments, "--resume"))
        check_rows(out, NAMES, tiny)
        assert {name: (out / name).read_bytes() for name in there} == before
        assert not set(served.fetched) & (set(NAMES[:24]) - set(NAMES[40:]))
        done = 8 * len(there)
        assert f"{done} rows were there before" in printed and computed(printed) == 40 - done
        assert not list(out.glob(".part*"))
        assert "0 inputs were computed, 48 rows were there before" in succeed(*arguments, "--resume")


def test_only_what_a_changed_model_or_source_makes_stale_is_computed_again(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "pictures", tmp_path / "out"
    source.mkdir()
    names = sorted(LEVELS)
    for name in names:
        (source / name).write_bytes(plain(LEVELS[name]))
    arguments = (source, "--model", "tiny", "--out", out, "--part-rows", "10")
    assert computed(succeed(*arguments, "--explain")) == 40
    tag = another_version(tmp_path / "changed")
    write = OutputFolder.write_part
    written = list[int]()

    def write_two(folder: OutputFolder, part: int, *rest: object) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part)
        write(folder, part, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(OutputFolder, "write_part", write_two)
        assert "Stopped" in fail(*arguments, "--explain", "--resume")
    assert Counter(row["model"] for row in rows_in(out)) == {tiny: 20, tag: 20}
    printed = succeed(*arguments, "--explain", "--resume")
    assert computed(printed) == 20 and "20 rows were there before" in printed
    check_rows(out, names, tag)
    assert [path.name for path in (out / "overlays").iterdir()] == [tag.partition(":")[2]]  # none of the old version
    (source / "-first.png").write_bytes(plain(255))  # the first of all: every part begins elsewhere now
    (source / names[-1]).unlink()
    printed = succeed(*arguments, "--explain", "--resume")
    rows = rows_in(out)
    assert [Path(row["input"]).name for row in rows] == ["-first.png", *names[:-1]]
    assert rows[0]["probabilities"]["bright"] == pytest.approx(probability_of_plain(255), abs=1e-6)
    assert computed(printed) == 1  # although every part holds what was in the one before
    for place in range(12):  # more than a part holds, before all others
        (source / f"-a{place:02d}.png").write_bytes(plain(241 + place))
    assert computed(succeed(*arguments, "--explain", "--resume")) == 12
    assert [Path(row["input"]).name for row in rows_in(out)][:14] == [
        *(f"-a{place:02d}.png" for place in range(12)),
        "-first.png",
        names[0],
    ]
    for place in range(12):
        (source / f"-a{place:02d}.png").unlink()
    for name in names[:15]:
        (source / name).unlink(missing_ok=True)
    with (out / ".vitrine" / "parts.jsonl").open("rb+") as log:  # a kill before the last of them was noted
        lines = log.readlines()
        log.seek(0)
        log.writelines([line for line in lines if b"[4, " not in line[:4]])
        log.truncate()
    assert len(parts_in(out)) == 6
    assert computed(succeed(*arguments, "--explain", "--resume")) == 0
    assert len(rows_in(out)) == 25 and len(parts_in(out)) == 3
    assert not list((out / ".vitrine").rglob("part-*"))


def test_a_part_or_an_index_that_was_damaged_is_made_again(tiny: str, tmp_path: Path) -> None:
    source, out = tmp_path / "pictures", tmp_path / "out"
    source.mkdir()
    for name, level in LEVELS.items():
        (source / name).write_bytes(plain(level))
    arguments = (source, "--model", "tiny", "--out", out, "--part-rows", "10")
    succeed(*arguments)
    names, whole = [Path(row["input"]).name for row in rows_in(out)], (out / "part-000002.jsonl").read_bytes()
    (out / "part-000001.jsonl").unlink()
    (out / "part-000002.jsonl").write_bytes(whole[:100])
    (out / ".vitrine" / "index.sqlite").write_bytes(b"none" * 5000)
    with (out / ".vitrine" / "parts.jsonl").open("a") as log:
        log.write("[3, ")  # cut off by a kill
    assert computed(succeed(*arguments, "--resume")) == 20
    check_rows(out, names, tiny)
    assert (out / "part-000002.jsonl").read_bytes() == whole


def test_a_folder_is_of_one_run_at_a_time_and_of_one_kind_of_run(tiny: str, home: Path, tmp_path: Path) -> None:
    with serving_pictures({name: plain(level) for name, level in LEVELS.items()}) as served:
        served.hold([NAMES[0]])
        table, out = table_of(tmp_path / "table.csv", served, NAMES), tmp_path / "out"
        arguments = (table, "--model", "tiny", "--out", out)
        process = begin(home, *arguments)
        wait_until(lambda: bool(served.fetched))
        message = fail(*arguments, "--resume")
        assert "Another run is in" in message and f"process {process.pid}" in message
        served.release()
        end(process)
    assert "another threshold: None, and not 0.7" in fail(*arguments, "--resume", "--threshold", "0.7")
    assert "another format" in fail(*arguments, "--resume", "--format", "csv")
    assert "another source" in fail(tmp_path / "tiny", *arguments[1:], "--resume")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 512 KiB until the block ends."""
    if not is_root():
        pytest.skip("to mount a small disk takes root")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "vitrine", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_with_whole_parts_and_room_lets_it_go_on(
    tiny: str, home: Path, tmp_path: Path
) -> None:
    source, disk = tmp_path / "pictures", tmp_path / "disk"
    source.mkdir()
    for place in range(40):
        (source / f"{place:02d}.png").write_bytes(plain(place))
    with small_disk(disk):
        ballast, out = disk / "ballast", disk / "out"
        ballast.write_bytes(b"x" * LEFT_BUT_60_KIB)
        arguments = (source, "--model", "tiny", "--out", out, "--part-rows", "10")
        process = begin(home, *arguments)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 1 and "Traceback" not in printed, printed
        assert "No space left on device" in printed or "is full" in printed
        assert len(parts_in(out)) < 4
        assert len(rows_in(out)) == 10 * len(parts_in(out))
        ballast.unlink()
        succeed(*arguments, "--resume")
        assert [Path(row["input"]).name for row in rows_in(out)] == [f"{place:02d}.png" for place in range(40)]


def test_a_file_that_may_not_grow_is_not_left_half_written(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib; sys.path.insert(0, '.'); from bulk.folder import OutputFolder;"
        "from bulk.rows import Column; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000));"
        "path = pathlib.Path(sys.argv[1]); (path / '.vitrine').mkdir();"
        "folder = OutputFolder(path, [Column('input', 'text')], 'jsonl');"
        "folder.write_part(0, 'a', [{'input': 'x'}], {}); folder.write_part(1, 'b', [{'input': 'x' * 6000}], {})"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment(tmp_path), capture_output=True, text=True
    )
    assert ran.returncode == 1 and "File too large. Nothing is half written." in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".vitrine", "part-000000.jsonl"]


def test_a_picture_that_was_too_large_is_read_once_larger_ones_may_be(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "pictures", tmp_path / "out"
    source.mkdir()
    (source / "0.png").write_bytes(plain(0))
    (source / "1.png").write_bytes(plain(6) + b"x" * 10_000)
    arguments = (source, "--model", "tiny", "--out", out)
    with monkeypatch.context() as limited:
        limited.setenv("VITRINE_MAX_BODY_BYTES", "10000")
        assert "1 with an error" in succeed(*arguments)
    assert computed(succeed(*arguments, "--resume")) == 1
    assert [row["error"] for row in rows_in(out)] == [None, None]
