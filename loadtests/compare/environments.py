"""Makes a virtual environment for each peer from its pinned requirements."""

import hashlib
import subprocess
import sys
from pathlib import Path

from loadtests.server import ROOT

REQUIREMENTS, FOLDER = ROOT / "requirements" / "peers", ROOT / ".venv-peers"


class NotInstalled(Exception):
    """A peer cannot be installed here; the message says why."""


def install(name: str) -> Path:
    """Return the interpreter of a peer's environment, which is made if it is missing or out of date.

    Raises:
        NotInstalled: the environment could not be made.
    """
    folder, pinned = FOLDER / name, REQUIREMENTS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / ".complete"
    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text("utf-8") == digest:
        return python
    print(f"Installing {name} into {folder.relative_to(ROOT)} …", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes"]
    _run([*pip, "-r", str(pinned)])
    stamp.write_text(digest, "utf-8")  # last, so that an install that was interrupted starts again
    return python


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        lines = [line for line in (finished.stderr or finished.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1] if lines else "no message")
        raise NotInstalled(f"could not be installed: {reason.removeprefix('ERROR: ')[:200]}")
