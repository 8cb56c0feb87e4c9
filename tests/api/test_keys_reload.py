"""How a running server looks at the file of API keys: by itself, whatever comes to stand in its place."""

import os
import threading
from pathlib import Path

import pytest

import api.keys
from api.keys import Keys, add_key, read_keys, remove_key
from errors import KeysError
from regular_file import read_within
from tests.api.conftest import keys_of
from tests.live.server import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "keys.toml"


def test_a_running_server_looks_by_itself_until_it_ends(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.keys, "RELOAD_INTERVAL_S", 0.01)
    first, known = add_key(path, "ci").encode(), Keys(path)
    known.start()
    assert known.name_of(first) == "ci"  # it was read before `start` returned
    second = add_key(path, "web").encode()
    wait_until(lambda: known.name_of(second) == "web")
    remove_key(path, "ci")
    wait_until(lambda: known.name_of(first) is None)
    known.stop()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "keys"])


@pytest.mark.parametrize("damage", ["a = " + "1" * 5000, "a = " + "[" * 3000 + "]" * 3000], ids=["digits", "brackets"])
def test_a_running_server_takes_a_repaired_file_however_it_was_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    monkeypatch.setattr(api.keys, "RELOAD_INTERVAL_S", 0.01)
    first, known = add_key(path, "ci").encode(), Keys(path)
    known.start()
    path.write_text(damage)
    wait_until(lambda: "is damaged" in caplog.text)
    assert known.name_of(first) == "ci"
    path.unlink()
    second = add_key(path, "web").encode()
    wait_until(lambda: known.name_of(second) == "web")
    assert known.name_of(first) is None
    known.stop()


def test_a_failure_that_nobody_foresaw_does_not_end_the_looking(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api.keys, "RELOAD_INTERVAL_S", 0.01)
    key, known = add_key(path, "ci").encode(), Keys(path)
    with monkeypatch.context() as broken:
        broken.setattr(api.keys, "read_keys", lambda *_: 1 / 0)
        known.start()
        wait_until(lambda: "could not be looked at" in caplog.text)
    wait_until(lambda: known.name_of(key) == "ci")
    known.stop()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_at_once_and_leaves_the_keys_as_they_were(
    path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    key = add_key(path, "ci").encode()
    known = keys_of(path)
    path.unlink()
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda place: os.symlink("/dev/zero", place)}[kind](path)
    with pytest.raises(KeysError, match=f"cannot be read .It is a {kind}, not a regular file"):
        read_keys(path)
    known.reload()
    assert known.name_of(key) == "ci"
    assert f"The keys stay as they were: The file of API keys {path} cannot be read (It is a {kind}" in caplog.text


def test_a_problem_that_lasts_is_logged_once_a_minute_and_a_new_one_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = keys_of(path)
    caplog.clear()
    path.mkdir()
    for _ in range(5):
        known.reload()
    assert len(caplog.records) == 1
    path.rmdir()
    os.mkfifo(path)
    for _ in range(5):
        known.reload()
    assert ["a folder" in caplog.messages[0], "a pipe" in caplog.messages[1]] == [True] * len(caplog.records)
    monkeypatch.setattr(api.keys, "LOG_INTERVAL_S", 0.0)  # a minute later
    known.reload()
    assert len(caplog.records) == 3


class StalledPath(type(Path())):  # type: ignore[misc]
    """A path on a file system that does not answer until it is told to."""

    answers = threading.Event()

    def __fspath__(self) -> str:
        self.answers.wait()
        return str(super().__fspath__())


def test_a_file_system_that_stalls_holds_nobody_up_and_is_logged(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api.keys, "RELOAD_INTERVAL_S", 0.01)
    monkeypatch.setattr(api.keys, "READ_LIMIT_S", 0.05)
    key, stalled = add_key(path, "ci").encode(), StalledPath(path)
    with pytest.raises(TimeoutError, match="Nothing came within"):
        read_within(stalled, 0.05)
    known = Keys(stalled)
    known.start()
    assert known.name_of(key) is None  # nobody is let in before the file was read

    def is_logged() -> bool:
        known.check_reading()
        return "was not read within 0.05 seconds" in caplog.text

    wait_until(is_logged)
    stalled.answers.set()
    wait_until(lambda: known.name_of(key) == "ci")
    stalled.answers.clear()
    caplog.clear()
    wait_until(is_logged)
    assert known.name_of(key) == "ci"
    stalled.answers.set()
    known.stop()
