"""Build contexts of the image, as `make image --prepare` fills them."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.live.server import environment


@dataclass(frozen=True)
class Context:
    """A folder that the Dockerfile is run in."""

    folder: Path

    def files(self) -> dict[str, str]:
        """Return time, mode and sha256 of everything in it, by its path."""
        return {
            str(path.relative_to(self.folder)): f"{path.stat().st_mtime} {path.stat().st_mode:o} "
            + (hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
            for path in self.folder.rglob("*")
        }


@dataclass(frozen=True)
class Contexts:
    """One context of this source, one of a copy of it elsewhere, and one of that copy with a change of code."""

    here: Context
    elsewhere: Context
    changed: Context


def prepare(folder: Path, home: Path, source: Path = ROOT) -> Context:
    """Fill a context from a source and the store in `home`."""
    command = [sys.executable, "-m", "deploy.container.image", "--prepare", str(folder)]
    ran = subprocess.run(command, cwd=source, env=environment(home), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return Context(folder)
