"""docs/request.md against a real request: the files that it names are met in the order in which it names them."""

import re
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.api.conftest import MakeClient
from tests.conftest import ROOT
from tests.tiny import plain, seal, tiny_package

DOCUMENT = (ROOT / "docs" / "request.md").read_text("utf-8")


def files_in_order() -> list[str]:
    """Return the files of the table, in its order."""
    return re.findall(r"^\| \d+ \| `([^`]+)` \|", DOCUMENT, flags=re.MULTILINE)


class FirstCalls:
    """Notes the files of this repository by their first call, in threads that start while it is entered."""

    def __init__(self) -> None:
        self.files = dict[str, None]()

    def __enter__(self) -> "FirstCalls":
        threading.setprofile(self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        # The model is asked for its state before anything is read, which the page says where it happens.
        if event == "call" and path.is_relative_to(ROOT) and frame.f_code.co_name != "check_ready":
            self.files.setdefault(path.relative_to(ROOT).as_posix())


@pytest.mark.parametrize("exits", [False, True])
def test_a_picture_meets_the_files_in_the_order_of_the_page(
    make_client: MakeClient, tmp_path: Path, exits: bool
) -> None:
    with FirstCalls() as calls:
        client = make_client(
            seal(tiny_package(tmp_path / "tiny", exits=exits))
        )  # its lanes start here, and are watched
        assert client.get("/health/live").status_code == 200
        calls.files.clear()
        assert client.post("/models/tiny/predict", content=plain(200)).status_code == 200
        met = list(calls.files)
    assert [file for file in met if file in files_in_order()] == files_in_order()


def test_every_file_that_the_page_names_is_there() -> None:
    names = re.findall(r"`([a-z_/]+\.py)`", DOCUMENT)
    assert len(names) > 10
    assert [name for name in names if not (ROOT / name).is_file()] == []
