"""`--expected`, as a person types it: a model that answers otherwise than the original is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models import store
from tests.export.original.pictures import (
    CARD,
    Read,
    by_opencv,
    by_pillow,
    examples,
    normalised,
    original_logits,
    package,
)


def expected_file(path: Path, pictures: Path, read: Read) -> Path:
    path.write_text(json.dumps({name: logits.tolist() for name, logits in original_logits(pictures, read).items()}))
    return path


@pytest.fixture
def graph(tmp_path: Path) -> list[str]:
    """The options that bring a graph, its labels and its card."""
    package(tmp_path / "zoo")
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\n")
    (tmp_path / "mine.toml").write_text(CARD.replace('"zoo"', '"imagenet"'))
    options = {"--onnx": "zoo/predict.onnx", "--labels": "labels.txt", "--card": "mine.toml"}
    return [part for option, name in options.items() for part in (option, str(tmp_path / name))]


def run_import(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "import", "imagenet", *map(str, arguments)])


def test_it_is_installed_if_it_answers_as_the_original_and_not_if_it_does_not(
    home: Path, tmp_path: Path, graph: list[str]
) -> None:
    pictures = examples(tmp_path / "pictures")
    other = expected_file(tmp_path / "other.json", pictures, lambda data: normalised(by_pillow(data)))
    refused = run_import(*graph, "--examples", pictures, "--expected", other)
    assert refused.exit_code == 1 and isinstance(refused.exception, SystemExit)
    assert 'library = "pillow"\nkernel = "bilinear"' in refused.output and "Nothing was installed" in refused.output
    assert store.installed() == []

    same = expected_file(tmp_path / "same.json", pictures, lambda data: normalised(by_opencv(data)))
    passed = run_import(*graph, "--examples", pictures, "--expected", same)
    assert passed.exit_code == 0, passed.output
    assert "As the original (same.json, logits)" in passed.output and "0 labels differ" in passed.output
    assert store.find("imagenet").parity()["original"]["examples"] == 6
    assert "same.json" in CliRunner().invoke(main, ["models", "show", "imagenet"]).output


def test_options_that_do_not_go_together_are_refused_with_what_they_go_with(
    home: Path, tmp_path: Path, graph: list[str]
) -> None:
    file = tmp_path / "expected.json"
    file.write_text(json.dumps({"0.png": np.zeros(3).tolist()}))
    for arguments, message in (
        ((*graph, "--examples", tmp_path), "--examples goes with --model, or with --expected FILE"),
        (("--expected", file), "--expected goes with your own"),
        ((*graph, "--expected-kind", "logits"), "--expected-kind goes with --expected FILE"),
        ((*graph, "--expected", file, "--tolerance", "0"), "--tolerance"),
    ):
        result = run_import(*arguments)
        assert result.exit_code != 0 and message in result.output, (arguments, result.output)
    assert store.installed() == []
