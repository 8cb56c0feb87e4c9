"""`--expected`, as a person types it: a model that answers otherwise than the original is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from models import store
from models.card import as_image_card
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
    """A graph with the options that bring its labels and its card."""
    package(tmp_path / "zoo")
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\n")
    (tmp_path / "mine.toml").write_text(CARD)
    options = {"--labels": "labels.txt", "--card": "mine.toml"}
    return [
        str(tmp_path / "zoo/predict.onnx"),
        *(part for option, name in options.items() for part in (option, str(tmp_path / name))),
    ]


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", command, *map(str, arguments)])


def test_it_is_installed_if_it_answers_as_the_original_and_not_if_it_does_not(
    home: Path, tmp_path: Path, graph: list[str]
) -> None:
    pictures = examples(tmp_path / "pictures")
    other = expected_file(tmp_path / "other.json", pictures, lambda data: normalised(by_pillow(data)))
    refused = run("add", *graph, "--examples", pictures, "--expected", other)
    assert refused.exit_code == 1 and isinstance(refused.exception, SystemExit)
    assert 'library = "pillow"\nkernel = "bilinear"' in refused.output and "Nothing was installed" in refused.output
    assert store.installed() == []

    same = expected_file(tmp_path / "same.json", pictures, lambda data: normalised(by_opencv(data)))
    passed = run("add", *graph, "--examples", pictures, "--expected", same)
    assert passed.exit_code == 0, passed.output
    assert "As the original (same.json, logits)" in passed.output and "0 labels differ" in passed.output
    assert store.find("zoo").parity()["original"]["examples"] == 6
    assert "same.json" in CliRunner().invoke(main, ["models", "show", "zoo"]).output


def test_what_a_card_assumes_is_confirmed_by_the_original_but_not_by_labels_alone(
    home: Path, tmp_path: Path, graph: list[str]
) -> None:
    pictures = examples(tmp_path / "pictures")
    logits = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    card = "assumed = ['input.mean', 'input.std']\n" + CARD
    (tmp_path / "mine.toml").write_text(card)
    expected = tmp_path / "expected.json"
    for answers, assumed in (
        ({name: ["cat", "dog", "fox"][int(row.argmax())] for name, row in logits.items()}, ("input.mean", "input.std")),
        ({name: row.tolist() for name, row in logits.items()}, ()),
    ):
        expected.write_text(json.dumps(answers))
        passed = run("add", *graph, "--examples", pictures, "--expected", expected)
        assert passed.exit_code == 0, passed.output
        assert as_image_card(store.find("zoo").card).assumed == assumed


def test_what_the_examples_cannot_tell_stays_assumed(home: Path, tmp_path: Path, graph: list[str]) -> None:
    assumed = ("input.resize", "input.mean", "input.std")
    (tmp_path / "mine.toml").write_text(f"assumed = {list(assumed)}\n{CARD}")
    square, oblong = tmp_path / "square", tmp_path / "oblong"
    for folder, width, height in ((square, 97, 97), (oblong, 150, 97)):
        for path in examples(folder).iterdir():
            Image.open(path).crop((0, 0, width, height)).save(path)
    for folder, left in ((square, ("input.resize",)), (oblong, ())):
        answers = original_logits(folder, lambda data: normalised(by_opencv(data)))
        (tmp_path / "expected.json").write_text(json.dumps({name: row.tolist() for name, row in answers.items()}))
        passed = run("add", *graph, "--examples", folder, "--expected", tmp_path / "expected.json")
        assert passed.exit_code == 0, passed.output
        assert as_image_card(store.find("zoo").card).assumed == left
        assert ("Still assumed" in passed.output) == bool(left)


def test_options_that_do_not_go_together_are_refused_with_what_they_go_with(
    home: Path, tmp_path: Path, graph: list[str]
) -> None:
    file = tmp_path / "expected.json"
    file.write_text(json.dumps({"0.png": np.zeros(3).tolist()}))
    for command, arguments, message in (
        ("import", ("churn", "--examples", tmp_path), "--examples goes with --expected FILE"),
        ("import", ("churn", "--expected", file), "--expected goes with your own weights"),
        ("add", (*graph, "--expected-kind", "logits"), "--expected-kind goes with --expected FILE"),
        ("add", (*graph, "--expected", file, "--tolerance", "0"), "--tolerance"),
    ):
        result = run(command, *arguments)
        assert result.exit_code != 0 and message in result.output, (arguments, result.output)
    assert store.installed() == []


def test_a_variant_is_held_against_the_original_too(home: Path, tmp_path: Path, graph: list[str]) -> None:
    pictures = examples(tmp_path / "pictures")
    same = expected_file(tmp_path / "same.json", pictures, lambda data: normalised(by_opencv(data)))
    options = [*graph, "--examples", pictures, "--expected", same, "--variant", "fp16"]
    refused = run("add", *options, "--tolerance", "1e-5")
    assert refused.exit_code == 1 and "fp16 is less precise than fp32, which passed" in refused.output, refused.output
    assert store.installed() == []
    passed = run("add", *options, "--tolerance", "0.01")
    assert passed.exit_code == 0 and passed.output.count("As the original (same.json, logits)") == 2, passed.output
