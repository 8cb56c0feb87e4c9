"""A file is written whole or not at all, with the permissions that it needs."""

from pathlib import Path

import pytest

from atomic_write import atomic_write


def test_the_old_content_is_there_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def write_half(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_write_changes_nothing_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_its_owners_alone_and_keeps_the_mode_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for mode in (0o600, 0o440):
        with atomic_write(path, private=True) as file:
            file.write(b"secret")
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o440)


def test_another_file_is_as_open_as_the_umask_lets_it_be(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "file"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
