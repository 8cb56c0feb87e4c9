"""The source as git knows it, without what this checkout happens to hold beside it."""

import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT


def copy_of_the_source(folder: Path) -> Path:
    """Copy every tracked or new file into a folder, except tests and docs; return the folder."""
    command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists() and not name.startswith(("tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder
