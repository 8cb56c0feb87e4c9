"""Temporary folders of servers that ended, were killed, or still run."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.temporary import has_room, remove_stale_folders, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")

MAKE = "from serving.temporary import temporary_folder; print(temporary_folder('run'), flush=True); input()"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def server() -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", MAKE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def folder_of(server: "subprocess.Popen[str]") -> Path:
    assert server.stdout is not None
    folder = Path(server.stdout.readline().strip())
    assert folder.is_dir()
    return folder


def test_the_folder_of_a_server_that_ends_goes_with_it(server: "subprocess.Popen[str]") -> None:
    folder = folder_of(server)
    server.communicate("\n", 60)
    assert not folder.exists()


def test_that_of_a_killed_one_goes_at_the_next_start_and_not_before(server: "subprocess.Popen[str]") -> None:
    folder, own = folder_of(server), Path(temporary_folder("metrics"))
    remove_stale_folders()
    assert folder.is_dir() and own.is_dir()
    server.kill()
    server.wait()
    (folder / "served.json").write_text("{}")
    remove_stale_folders()
    assert not folder.exists() and own.is_dir()


def test_a_folder_that_a_child_of_the_killed_one_uses_is_kept(tmp_path: Path, server: "subprocess.Popen[str]") -> None:
    folder = folder_of(server)
    server.kill()
    server.wait()
    child = subprocess.Popen(["sleep", "600"])
    try:
        (folder / f"{child.pid}.beat").touch()
        remove_stale_folders()
        assert folder.is_dir()
    finally:
        child.kill()
        child.wait()
    remove_stale_folders()
    assert not folder.exists()


@pytest.mark.parametrize(
    "name",
    [
        "vitrine-run-x1y2z3",  # it does not say whose it is
        "vitrine-run-999999999-1-1-x1y2z3",  # of another container, say
        "other-run-999999999-1-1-x1y2z3",
    ],
)
def test_what_may_be_somebody_elses_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    remove_stale_folders()
    assert (tmp_path / name).is_dir()


def test_a_link_is_not_followed(tmp_path: Path, server: "subprocess.Popen[str]") -> None:
    folder = folder_of(server)
    server.kill()
    server.wait()
    kept = tmp_path / "kept"
    folder.rename(kept)
    folder.symlink_to(kept)
    remove_stale_folders()
    assert kept.is_dir()


def test_where_nothing_can_be_written_there_is_no_room(tmp_path: Path) -> None:
    assert has_room(tmp_path, 2**16)
    assert not has_room(tmp_path / "nowhere", 1)
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))"
    script = f"from serving.temporary import has_room as has; {limited}; print(has('.', 9_000), has('.', 11_000))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["True", "False"]
