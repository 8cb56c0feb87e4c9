"""`vitrine models diff` of two versions whose differences NumPy knows."""

import json
import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from cli.main import main
from models import store
from tests.export.original.pictures import softmax
from tests.tiny import logits_of_plain, plain, tiny_package


def test_two_versions_are_compared_by_card_files_and_answers(home: Path, tmp_path: Path) -> None:
    first, _ = store.import_package(tiny_package(tmp_path / "first"))
    package = tiny_package(tmp_path / "second")
    text = (package / "card.toml").read_text()
    (package / "card.toml").write_text(
        text.replace("threshold = 0.5", "threshold = 0.9").replace("std = [0.5, 0.5, 0.5]", "std = [0.5, 0.5, 0.25]")
    )
    (package / "goldens" / "140.png").write_bytes(plain(140))
    (package / "report.json").write_text('{"metrics": {"auc": 0.9, "auc_ci95": [0.8, 0.95]}}')
    goldens = json.loads((package / "goldens" / "goldens.json").read_text())
    goldens["goldens"].append({"file": "140.png", "logits": [0.0, 0.0]})
    (package / "goldens" / "goldens.json").write_text(json.dumps(goldens))
    second, _ = store.import_package(package)

    result = CliRunner().invoke(main, ["models", "diff", first.tag, second.tag[:-4]])
    assert result.exit_code == 0, result.output
    lines = [re.sub(r"\s+", " ", line).strip() for line in result.output.splitlines()]
    assert "threshold 0.5 0.9" in lines and any(line.startswith("input.std ") for line in lines)
    assert not any(line.startswith(("labels", "predict.onnx")) for line in lines)
    assert any(line.startswith("card.toml ") for line in lines) and "auc 0.9 (0.8 to 0.95)" in lines
    here, there = logits_of_plain(140), (np.full(3, 140 / 255) - [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.25]
    bright = softmax(here.astype(np.float64))[1], softmax(there @ np.array([[-2, 2], [1, -1], [-0.5, 0.5]]))[1]
    assert bright[0] >= 0.5 and bright[1] < 0.9
    assert any(
        re.match(r"Answers on 3 goldens of both: largest difference .*, 1 labels differ", line) for line in lines
    )
    assert "140.png bright dark" in lines

    alike = CliRunner().invoke(main, ["models", "diff", "tiny", second.tag])
    assert alike.exit_code == 1 and f"are both {second.tag}" in alike.output

    second.graph.unlink()
    damaged = CliRunner().invoke(main, ["models", "diff", first.tag, second.tag])
    assert damaged.exit_code == 1 and "predict.onnx is missing. Run" in damaged.output
