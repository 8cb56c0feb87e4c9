"""`vitrine models …` works on the folder of VITRINE_MODELS_DIR where that is set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.stores import open_store
from models.store_folder import StoreFolder
from settings import load_settings
from tests.conftest import ROOT
from tests.export.graphs import graph_file
from tests.live.server import environment, install
from tests.tiny import tiny_package


def vitrine(home: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cli.main", "models", *arguments]
    settings = environment(home, VITRINE_MODELS_DIR=str(folder)) | {"COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)


def test_a_model_goes_into_the_folder_and_out_of_it_and_the_store_stays_empty(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "own"
    folder.mkdir()
    imported = vitrine(home, folder, "import", "churn")
    assert imported.stdout.startswith("Imported churn:"), imported.stderr
    version = StoreFolder.own(folder).read_lock()["churn"]
    assert (folder / "churn" / version / "predict.onnx").exists() and not list(home.glob("models/*"))
    listed = vitrine(home, folder, "list").stdout
    assert version in listed and "served" in listed and "kidney-stone" not in listed
    assert "files as imported" in vitrine(home, folder, "verify", "churn").stdout
    assert f"Served version: {version}" in vitrine(home, folder, "show", "churn").stdout
    assert vitrine(home, folder, "remove", "churn").stdout == f"Removed churn:{version}\n"
    assert StoreFolder.own(folder).read_lock() == {} and not (folder / "churn").exists()


def test_a_name_that_the_store_serves_is_refused_for_another_model(tmp_path: Path) -> None:
    home, folder, graph = tmp_path / "home", tmp_path / "own", tmp_path / "tiny.onnx"
    tag = install(tiny_package(tmp_path / "tiny"), home)
    graph_file(graph, classes=3, size=64)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    refused = vitrine(home, folder, "add", str(graph), "--labels", str(tmp_path / "labels.txt"))
    assert refused.returncode == 1 and f"serves a model 'tiny' already ({tag})" in refused.stderr, refused.stderr
    assert StoreFolder.own(folder).read_lock() == {}
    vitrine(home, folder, "import", "churn")
    lock = StoreFolder.own(folder).read_lock()
    (home / "vitrine" / "models.lock").write_text(json.dumps(lock | {"kidney-stone": "0" * 16}))
    same, other = (vitrine(home, folder, "import", name) for name in ("churn", "kidney-stone"))
    assert same.stdout == f"Already there: churn:{lock['churn']} in {folder}\n", same.stderr
    assert other.returncode == 1 and "serves a model 'kidney-stone' already" in other.stderr
    assert StoreFolder.own(folder).read_lock() == lock


def test_a_relative_folder_begins_where_the_command_is_typed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITRINE_MODELS_DIR", "own")
    load_settings.cache_clear()
    assert open_store().models == tmp_path / "own"
    load_settings.cache_clear()


def test_pruning_keeps_what_is_served_and_what_bentos_and_the_settings_name(tmp_path: Path) -> None:
    home, tags = tmp_path / "home", []
    for content in (b"one", b"two", b"three", b"four"):
        package = tiny_package(tmp_path / content.decode())
        (package / "weights.safetensors").write_bytes(content)
        tags.append(install(package, home))
    description = home / "bentos" / "vitrine" / "abc" / "bento.yaml"
    description.parent.mkdir(parents=True)
    description.write_text(f"models:\n- tag: {tags[0]}\n")
    settings = environment(home, VITRINE_MODELS=tags[1][:12])
    command = [sys.executable, "-m", "cli.main", "models", "prune"]
    for options, said in (
        ([], "There is no version to delete."),  # one more stays, which a server may be serving
        (["--keep", "0", "--dry-run"], f"Would remove {tags[2]}"),
        (["--keep", "0"], f"Removed {tags[2]}"),
    ):
        ran = subprocess.run([*command, *options], cwd=ROOT, env=settings, capture_output=True, text=True)
        assert ran.stdout == f"{said}\n", ran.stderr
    assert sorted(path.name for path in (home / "models" / "tiny").glob("?" * 16)) == sorted(
        tag.partition(":")[2] for tag in (tags[0], tags[1], tags[3])
    )
