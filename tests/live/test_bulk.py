"""Bulk scoring beside the server: the same inputs, the same store, the same answers to the last bit."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from models.registry import package_folder
from tests.conftest import ROOT
from tests.live.server import Server, environment

PICTURES = 8


def bulk(home: Path, *arguments: object) -> list[dict[str, Any]]:
    """Run `python -m bulk` on a store; gives the rows of its parts."""
    command = [sys.executable, "-m", "bulk", *map(str, arguments)]
    ran = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    out = Path(arguments[list(arguments).index("--out") + 1])  # type: ignore[arg-type]
    return [json.loads(line) for part in sorted(out.glob("*.jsonl")) for line in part.read_text().splitlines()]


def test_pictures_get_the_served_answers_and_overlays_bit_for_bit(
    server: Server, home: Path, pictures: list[bytes], tmp_path: Path
) -> None:
    sent = [*pictures[:PICTURES], pictures[0][:2000], b"none"]
    (tmp_path / "pictures").mkdir()
    for place, data in enumerate(sent):
        (tmp_path / "pictures" / f"{place:02d}.png").write_bytes(data)
    asked = (tmp_path / "pictures", "--model", "kidney-stone", "--part-rows", "4")
    plain = bulk(home, *asked, "--out", tmp_path / "plain")
    drawn = bulk(home, *asked, "--out", tmp_path / "drawn", "--explain")
    server.wait_explaining("kidney-stone")
    for place, data in enumerate(sent):
        for row, path in ((plain[place], "/predict"), (drawn[place], "/predict?include_explanation=true")):
            served = requests.post(server.url + path, data=data, timeout=60).json()
            assert row["sha256"] == hashlib.sha256(data).hexdigest()
            if "detail" in served:
                assert row["error"] == served["detail"] and row["label"] is None
                continue
            assert row["error"] is None and row["model"] == f"kidney-stone:{served['version']}"
            assert (row["label"], row["warnings"]) == (served["prediction"], served["warnings"])
            assert (row["confidence"], row["probabilities"]) == (served["confidence"], served["probabilities"])
        if plain[place]["error"] is None:
            png = requests.post(f"{server.url}/explain?format=png", data=data, timeout=60).content
            assert (tmp_path / "drawn" / drawn[place]["overlay"]).read_bytes() == png
    assert [bool(row["error"]) for row in plain] == [False] * PICTURES + [True, True]


def test_rows_get_the_served_answers_to_their_last_digit(server: Server, home: Path, tmp_path: Path) -> None:
    for name in ("churn", "machine-anomaly"):
        goldens = [json.loads(path.read_text()) for path in (package_folder(name) / "goldens").glob("[0-9].json")]
        rows = [
            {key: round(value * factor, 2) if type(value) is float else value for key, value in golden.items()}
            for golden in goldens
            for factor in (0.8, 0.93, 1.0, 1.07, 40.0)
        ]
        table = tmp_path / f"{name}.csv"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        scored = bulk(home, table, "--model", name, "--out", tmp_path / name)
        for row, sent in zip(scored, rows, strict=True):
            served = requests.post(f"{server.url}/models/{name}/predict", json=sent, timeout=60).json()
            if "detail" in served:
                assert row["error"].replace("'", "") == served["detail"].replace("'", "")  # a cell is a text
                continue
            shared = ("confidence", "probabilities", "anomaly_score", "contributions", "is_anomaly", "warnings")
            assert {key: row[key] for key in shared if key in served} == {
                key: served[key] for key in shared if key in served
            }
            assert row["label"] == served.get("prediction", row["label"])
