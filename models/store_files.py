"""The steps in which a version comes into a store, changes there and leaves it, each whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from atomic_write import atomic_write
from models.package import EXPLANATIONS, PARITY, REPORT, StoredModel


def update_reports(package: Path, stored: StoredModel) -> None:
    """Copy the reports of a package to its stored version where they have changed; they are no part of the version."""
    for name in (REPORT, EXPLANATIONS, PARITY):
        source, target = package / name, stored.path / name
        if source.exists() and not (target.exists() and target.read_bytes() == source.read_bytes()):
            with atomic_write(target) as file:
                file.write(source.read_bytes())


def delete_in_one_step(folder: Path, staging_root: Path) -> None:
    """Move a folder out of the store before it is deleted, so that nobody finds it there half deleted."""
    trash = Path(tempfile.mkdtemp(dir=staging_root, prefix="staging-"))
    os.replace(folder, trash / folder.name)
    shutil.rmtree(trash, ignore_errors=True)


def update_latest(folder: Path, versions: list[str]) -> None:
    """Write the file by which BentoML finds a model's newest version; delete the model's folder if it is empty."""
    if versions:
        with atomic_write(folder / "latest") as file:
            file.write(versions[0].encode())
    elif not any(path.is_dir() for path in folder.iterdir()):
        shutil.rmtree(folder)


def open_to_all(folder: Path) -> None:
    """Give a folder the mode that the process's umask gives a new one; BentoML makes it for its owner alone.

    A server that runs as another user, as one in a container does, has to read it.
    """
    new = folder.with_name(f".{folder.name}")
    new.mkdir()
    folder.chmod(new.stat().st_mode)
    new.rmdir()


def first_reason(error: OSError) -> str:
    """Return what an error says; of one that holds one for each file, as `shutil.Error` does, what the first says."""
    causes = error.args[0] if isinstance(error, shutil.Error) and error.args else None
    return str(causes[0][2]) if isinstance(causes, list) and causes else str(error)
