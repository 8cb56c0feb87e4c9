"""A store with the tiny model, and a folder of pictures whose answers are known."""

from pathlib import Path

import pytest

from models.store import import_package
from tests.tiny import plain, tiny_package

LEVELS = (10, 240, 10, 30)
"""The grey levels of the pictures; two of them are equal."""


@pytest.fixture
def tiny(home: Path, tmp_path: Path) -> str:
    """Install the tiny model; gives its tag."""
    stored, _ = import_package(tiny_package(tmp_path / "tiny", explained=True))
    return stored.tag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of `LEVELS` in a folder and its subfolder, one that is none, and a file of another kind."""
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    for place, level in enumerate(LEVELS):
        name = f"{place}.png" if place < 2 else f"more/{place}.PNG"
        (pictures / name).write_bytes(plain(level))
    (pictures / "more" / "damaged.jpg").write_bytes(plain(77)[:40])
    (pictures / "notes.txt").write_text("none of them")
    return pictures
