"""Files that may be anything by the time they are read."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import regular_file
from regular_file import read_regular_file, read_within


@pytest.mark.parametrize("read", [read_regular_file, read_within])
def test_a_regular_file_is_read_whole_also_through_a_link(tmp_path: Path, read: Callable[[Path], bytes]) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"\0some bytes\n" * 100_000)
    link.symlink_to(path)
    assert read(path) == read(link) == path.read_bytes()


@pytest.mark.parametrize("read", [read_regular_file, read_within])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a socket", "nothing"])
def test_anything_else_is_an_error_at_once(tmp_path: Path, kind: str, read: Callable[[Path], bytes]) -> None:
    path = tmp_path / "it"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    with pytest.raises(OSError) as refused:
        read(path)
    if kind in ("a pipe", "a folder", "a device"):
        assert refused.value.strerror == f"It is {kind}, not a regular file"


def test_a_file_without_an_end_is_not_read_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_file, "MAX_BYTES", 1000)
    (tmp_path / "just").write_bytes(bytes(1000))
    (tmp_path / "over").write_bytes(bytes(1001))
    assert len(read_regular_file(tmp_path / "just")) == 1000
    with pytest.raises(OSError, match="more than 1,000 bytes"):
        read_regular_file(tmp_path / "over")
