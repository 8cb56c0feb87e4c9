"""The file of API keys: what is in it, how it changes, and what a running server makes of a change."""

import errno
import hashlib
import hmac
import os
import resource
import stat
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.keys import add_key, file_warnings, read_keys, remove_key
from cli.main import main
from errors import KeysError
from tests.api.conftest import keys_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "keys.toml"


def test_the_file_has_a_keys_sha256_and_never_the_key(path: Path) -> None:
    key = add_key(path, "ci")
    assert key.startswith("vk_") and len(key) == 3 + 43  # 256 bits in base64
    (entry,) = tomllib.loads(path.read_text())["key"]
    assert (entry["name"], entry["sha256"]) == ("ci", hashlib.sha256(key.encode()).hexdigest())
    assert key not in path.read_text() and key[3:] not in path.read_text()


def test_a_new_file_is_its_owners_alone_and_a_changed_one_keeps_its_mode(path: Path) -> None:
    add_key(path, "ci")
    assert path.stat().st_mode & 0o777 == 0o600
    assert file_warnings(path) == []
    path.chmod(0o440)
    add_key(path, "web")
    assert path.stat().st_mode & 0o777 == 0o440
    assert "mode 0440" in file_warnings(path)[0]
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.toml"]


def test_a_link_to_the_file_stays_one(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    add_key(link, "ci")
    assert link.is_symlink() and [entry.name for entry in read_keys(path)] == ["ci"]


def test_each_key_has_its_name_and_others_have_none(path: Path) -> None:
    first, second = add_key(path, "ci"), add_key(path, "web")
    known = keys_of(path)
    assert (known.name_of(first.encode()), known.name_of(second.encode())) == ("ci", "web")
    for wrong in (b"", b"vk_", first[:-1].encode(), first.encode() + b" ", "vk_ключ".encode(), b"\xff", b"x" * 10**6):
        assert known.name_of(wrong) is None
    assert known.name_of(read_keys(path)[0].sha256.encode()) is None


def test_every_key_is_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [add_key(path, name) for name in ("one", "two", "three")]
    known, compared = keys_of(path), []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))  # type: ignore[func-returns-value]
    assert known.name_of(keys[0].encode()) == "one"
    assert known.name_of(b"wrong") is None
    assert len(compared) == 6


def test_a_running_server_takes_new_keys_and_drops_removed_ones(path: Path) -> None:
    first = add_key(path, "ci").encode()
    known = keys_of(path)
    assert known.name_of(first) == "ci"
    second = add_key(path, "web").encode()
    known.reload()
    assert known.name_of(second) == "web"
    remove_key(path, "ci")
    known.reload()
    assert (known.name_of(first), known.name_of(second)) == (None, "web")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[key]\n", "damaged"),
        ('[[key]]\nname = "a"\nsha256 = "00"\ncreated = 2026-01-01\n', "damaged at key.0.sha256"),
        (f'[[key]]\nname = "a b"\nsha256 = "{"0" * 64}"\ncreated = 2026-01-01\n', "damaged at key.0.name"),
        (f'[[key]]\nname = "a"\nsha256 = "{"0" * 64}"\ncreated = 2026-01-01\n' * 2, "two keys of one name"),
        ('[[keys]]\nname = "a"\n', "damaged at keys"),
        ("\0", "damaged"),
        ("a = " + "1" * 5000, "damaged"),
        ("a = " + "[" * 3000 + "]" * 3000, "damaged"),
    ],
)
def test_a_damaged_file_is_refused_and_leaves_a_running_server_its_keys(
    path: Path, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    key = add_key(path, "ci").encode()
    known = keys_of(path)
    assert known.name_of(key) == "ci"
    good = path.read_text()
    path.write_text(text)
    with pytest.raises(KeysError, match=message):
        read_keys(path)
    with pytest.raises(KeysError, match=message):
        add_key(path, "web")
    assert path.read_text() == text
    for _ in range(2):
        known.reload()
        assert known.name_of(key) == "ci"
    assert [message in record.message for record in caplog.records] == [True]  # told once
    path.write_text(good.replace("ci", "again"))
    known.reload()
    assert known.name_of(key) == "again"


def test_nobody_is_let_in_before_there_is_a_good_file(path: Path) -> None:
    known = keys_of(path)
    assert known.name_of(b"anything") is None and known.name_of(b"") is None
    key = add_key(path, "ci").encode()
    known.reload()
    assert known.name_of(key) == "ci"
    path.unlink()
    known.reload()
    assert known.name_of(key) == "ci"


def test_the_command_prints_the_key_alone_and_its_advice_beside(path: Path) -> None:
    added = CliRunner().invoke(main, ["keys", "add", "ci", "--file", str(path)])
    assert added.exit_code == 0
    assert keys_of(path).name_of(added.stdout.strip().encode()) == "ci" and added.stdout.count("\n") == 1
    assert f"VITRINE_API_KEYS_FILE={path}" in added.stderr and "vk_" not in added.stderr
    listed = CliRunner().invoke(main, ["keys", "list", "--file", str(path)]).stdout
    assert listed.split()[1:] == ["ci"]
    assert CliRunner().invoke(main, ["keys", "remove", "ci", "--file", str(path)]).exit_code == 0
    assert read_keys(path) == []
    assert "nobody is let in" in file_warnings(path)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "ci"], "has a key ci already"),
        (["add", "two words"], "letters, digits"),
        (["add", ""], "letters, digits"),
        (["add", "x\n[[key]]"], "letters, digits"),
        (["remove", "web"], "has no key web; it has: ci"),
    ],
)
def test_a_mistake_is_one_sentence(path: Path, arguments: list[str], message: str) -> None:
    add_key(path, "ci")
    before = path.read_text()
    ran = CliRunner().invoke(main, ["keys", *arguments, "--file", str(path)])
    assert ran.exit_code != 0 and message in ran.stderr and ran.stdout == ""
    assert path.read_text() == before


def test_a_place_that_cannot_be_written_to_is_said(path: Path) -> None:
    add_key(path, "ci")
    with pytest.raises(KeysError, match="cannot be written"):
        add_key(path / "keys.toml", "ci")  # a file is no folder, not for root either


def test_a_disk_that_is_full_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_key(path, "ci")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(KeysError, match="cannot be written"):
        add_key(path, "web")
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_read_that_fails_for_want_of_file_descriptors_is_tried_again(path: Path) -> None:
    first = add_key(path, "ci")
    add_key(path, "web")
    known = keys_of(path)
    assert known.name_of(first.encode()) == "ci"
    remove_key(path, "ci")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        known.reload()
        assert known.name_of(first.encode()) == "ci"  # nothing can be read just now
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    known.reload()
    assert known.name_of(first.encode()) is None


def test_what_is_no_file_is_left_as_it_is(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(KeysError, match="is no file"):
        add_key(path, "ci")
    assert stat.S_ISFIFO(path.stat().st_mode) and list(path.parent.iterdir()) == [path]


def test_a_key_of_an_admin_is_told_from_others(path: Path) -> None:
    add_key(path, "reader")
    add_key(path, "boss", admin=True)
    keys = keys_of(path)
    assert keys.is_admin("boss") and not keys.is_admin("reader") and not keys.is_admin("")
    assert path.read_text().count("admin = true") == 1
