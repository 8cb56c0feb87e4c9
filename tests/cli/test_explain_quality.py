"""`vitrine explain quality --data`: an installed graph without weights, on pictures with and without boxes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models import store
from settings import load_settings
from tests.conftest import encode
from tests.tiny import bright_square, tiny_package


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A graph with an explain graph; its map is hottest where a picture is red."""
    monkeypatch.setenv("VITRINE_MODELS_DIR", str(tmp_path / "models"))
    load_settings.cache_clear()
    (tmp_path / "models").mkdir()
    package = tiny_package(tmp_path / "package", explained=True)
    card = (package / "card.toml").read_text()
    (package / "card.toml").write_text(card.replace('"efficientnet-b4-head"', '"onnx"'))
    store.Store.own(tmp_path / "models").import_package(package)
    yield
    load_settings.cache_clear()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One picture is red at its upper left, the other at its lower right."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "first.png").write_bytes(encode(bright_square()))
    (tmp_path / "pictures" / "last.png").write_bytes(encode(np.ascontiguousarray(bright_square()[::-1, ::-1])))
    return tmp_path / "pictures"


def measured(folder: Path, *options: str) -> tuple[Result, dict[str, Any]]:
    written = folder.parent / "figures.json"
    arguments = ["explain", "quality", "tiny", "--data", str(folder), "--json", str(written), *options]
    result = CliRunner().invoke(main, arguments)
    return result, json.loads(written.read_text()) if written.exists() else {}


@pytest.mark.usefixtures("installed")
def test_a_graph_without_weights_gets_curves_and_is_told_what_is_missing(pictures: Path) -> None:
    result, figures = measured(pictures)
    assert result.exit_code == 0, result.output
    assert "no PyTorch weights" in result.output
    assert figures["n"] == 2 and figures["insertion_auc"] > figures["deletion_auc"]
    assert not {"pointing_game", "randomised", "compared"} & set(figures)


@pytest.mark.usefixtures("installed")
def test_with_boxes_the_pointing_game_is_played(pictures: Path) -> None:
    # A picture is 16 pixels wide: from one corner to the other it is farther than the tolerance of 15.
    (pictures / "boxes.csv").write_text("picture,x,y,width,height\nfirst.png,0,0,1,1\nlast.png,0,0,1,1\n")
    result, figures = measured(pictures)
    assert result.exit_code == 0, result.output
    assert (figures["n"], figures["pointing_game"]) == (2, 0.5)


@pytest.mark.usefixtures("installed")
def test_rise_is_measured_where_that_is_asked_for_or_nothing_else_can_be(pictures: Path, tmp_path: Path) -> None:
    (pictures / "boxes.csv").write_text("picture,x,y,width,height\nfirst.png,0,0,1,1\nlast.png,0,0,1,1\n")
    options = ["--samples", "100", "--target", "bright"]
    result, asked = measured(pictures, "--method", "rise", *options)
    assert result.exit_code == 0 and "No weights were randomised" in result.output, result.output
    assert (asked["method"], asked["layer"], asked["samples"], asked["pointing_game"]) == ("rise", None, 100, 0.5)
    store.Store.own(tmp_path / "models").import_package(tiny_package(tmp_path / "without"))
    result, figures = measured(pictures, *options)
    assert result.exit_code == 0, result.output
    assert {name: figures[name] for name in figures if name != "conditions"} == {
        name: asked[name] for name in asked if name != "conditions"
    }
    assert figures["insertion_auc"] > figures["deletion_auc"]


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_measured_is_said(pictures: Path) -> None:
    result, _ = measured(pictures, "--target", "purple")
    assert result.exit_code == 1 and "it has dark, bright" in result.output
    result = CliRunner().invoke(main, ["explain", "quality", "nobody", "--data", str(pictures)])
    assert result.exit_code == 1 and "nobody" in result.output
