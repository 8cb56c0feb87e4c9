"""The commands of `vitrine models`, as a person types them, each test with a store of its own."""

import json
import sys
from pathlib import Path

import lightgbm
import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models import store


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments])


def test_from_nothing_installed_to_served_and_back(home: Path) -> None:
    assert "not installed" in run("list").output
    assert "Install kidney-stone with: vitrine models import kidney-stone" in run("list").output

    imported = run("import", "kidney-stone")
    assert imported.exit_code == 0, imported.output
    tag = store.find("kidney-stone").tag
    assert imported.output == f"Imported {tag}\n"
    assert run("import", "kidney-stone").output == f"Already there: {tag}\n"

    version = tag.partition(":")[2]
    (row,) = [line.split() for line in run("list").output.splitlines() if "kidney-stone" in line]
    assert row[:4] == ["kidney-stone", version, "served", "efficientnet-b4-head"]

    page = run("show", "kidney-stone").output
    for part in (tag, "18,471,242", "not a medical device", "no_stone", "predict.onnx", f"Served version: {version}"):
        assert part in page
    assert run("verify", tag).output.startswith(f"{tag}: all ")

    assert run("remove", "kidney-stone").output == f"Removed {tag}\n"
    assert "not installed" in run("list").output


def test_a_flipped_byte_fails_verify_and_the_command_it_names_repairs_it(home: Path) -> None:
    run("import", "kidney-stone")
    weights = store.find("kidney-stone").path / "weights.safetensors"
    with weights.open("r+b") as file:
        file.seek(20_000_000)
        byte = file.read(1)
        file.seek(20_000_000)
        file.write(bytes([byte[0] ^ 1]))
    damaged = run("verify", "kidney-stone")
    assert damaged.exit_code == 1
    assert "weights.safetensors is damaged" in damaged.output
    assert "`vitrine models import kidney-stone` again" in damaged.output
    assert run("import", "kidney-stone").exit_code == 0
    assert run("verify", "kidney-stone").exit_code == 0


def test_a_damaged_model_is_shown_as_far_as_possible_and_can_be_removed(home: Path) -> None:
    run("import", "churn")
    stored = store.find("churn")
    stored.graph.unlink()
    assert "missing" in run("show", "churn").output
    (stored.path / "manifest.json").write_text(json.dumps({"version": stored.version}))
    page = run("show", "churn")
    assert page.exit_code == 1 and isinstance(page.exception, SystemExit)
    assert f"`vitrine models remove {stored.tag}`" in page.output
    assert run("remove", stored.tag).output == f"Removed {stored.tag}\n"


def test_a_damaged_card_is_listed_as_such_with_its_repair(home: Path) -> None:
    run("import", "kidney-stone")
    (store.find("kidney-stone").path / "card.toml").write_text("name =")
    listed = run("list").output
    assert "damaged" in listed and "Repair kidney-stone with: vitrine models import kidney-stone" in listed
    assert run("import", "kidney-stone").output.startswith("Imported ")
    assert "damaged" not in run("list").output


@pytest.mark.parametrize("command", ["show", "verify", "remove", "import"])
def test_a_model_that_is_not_there_is_a_sentence_not_a_traceback(home: Path, command: str) -> None:
    result = run(command, "kidny-stone")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.output.startswith("Error: ")
    assert "kidny-stone" in result.output and len(result.output.splitlines()) == 1


def test_a_file_that_is_no_checkpoint_is_refused_and_nothing_is_installed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("not a checkpoint")
    result = run("import", "kidney-stone", "--weights", str(tmp_path / "weights.pth"))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "not a checkpoint that can be read safely" in result.output
    assert store.installed() == []


def test_without_pytorch_a_checkpoint_names_the_environment_that_can_import_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").write_text("")
    for name in ("export.onnx", "models.checkpoint"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = run("import", "kidney-stone", "--weights", str(tmp_path / "weights.pth"))
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "needs the `torch` extra (torch is missing here)" in result.output
    assert ".venv-dev/bin/vitrine models import kidney-stone" in result.output


def test_a_model_of_rows_is_installed_under_a_name_of_its_own_and_shown(home: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(0, 100, (200, 2))
    data = lightgbm.Dataset(rows, rows[:, 0] * 2, feature_name=["area", "rooms"])
    model = lightgbm.train({"objective": "regression", "verbose": -1, "num_threads": 1}, data, 5)
    model.save_model(tmp_path / "model.txt")
    imported = run("add", str(tmp_path / "model.txt"), "--name", "house-price", "--output", "price=CHF")
    assert imported.exit_code == 0, imported.output
    assert "Largest difference from LightGBM" in imported.output and "Added house-price:" in imported.output
    page = run("show", "house-price").output
    for part in ("tabular-regression", "area", "price", "CHF", "near_threshold"):
        assert part in page
    assert "house-price" in run("list").output
    refused = run("add", str(tmp_path / "model.txt"), "--variant", "int8")
    assert refused.exit_code == 1 and "--variant does not go with" in refused.output
