"""`vitrine models …` works on the folder of VITRINE_MODELS_DIR where that is set."""

import subprocess
import sys
from pathlib import Path

from models.store_folder import StoreFolder
from tests.conftest import ROOT
from tests.live.server import environment


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
