import re
from pathlib import Path

import pytest

from loadtests.compare import environments
from loadtests.compare.servers import SERVERS

PINNED = re.compile(r"[a-z0-9._-]+==[^ ]+( ; .+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
PEERS = [server.name for server in SERVERS if not server.own]


@pytest.mark.parametrize("name", PEERS)
def test_a_peers_requirements_are_pinned_with_hashes_and_name_no_host(name: str) -> None:
    text = (environments.REQUIREMENTS / f"{name}.txt").read_text("utf-8")
    lines = text.splitlines()
    assert all(PINNED.fullmatch(line) or HASH.fullmatch(line) for line in lines)
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        assert HASH.fullmatch(line) or HASH.fullmatch(after), f"{line} has no hash"
    assert "//" not in text and "//" not in (environments.REQUIREMENTS / f"{name}.in").read_text("utf-8")


def test_every_peer_runs_the_versions_that_vitrine_does() -> None:
    def versions(file: Path) -> set[str]:
        pinned = re.compile(r"(numpy|onnxruntime|opencv-python-headless|pillow)==\S+")
        return {match.group() for match in map(pinned.match, file.read_text("utf-8").splitlines()) if match}

    ours = versions(environments.REQUIREMENTS.parent / "serve.txt")
    assert len(ours) >= 4
    for name in PEERS:
        assert versions(environments.REQUIREMENTS / f"{name}.txt") == ours, name


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone.txt").write_text(f"--no-index\nno-such-server==1 --hash=sha256:{'0' * 64}\n")
    for name, folder in (("ROOT", tmp_path), ("FOLDER", tmp_path / "venvs"), ("REQUIREMENTS", tmp_path)):
        monkeypatch.setattr(environments, name, folder)
    with pytest.raises(environments.NotInstalled, match="no-such-server"):
        environments.install("gone")
    assert not (tmp_path / "venvs" / "gone" / ".complete").exists()
