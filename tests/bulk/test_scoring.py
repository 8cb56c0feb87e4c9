"""A run on one machine: every input once, with the answer that is right."""

import csv
import hashlib
import json
from pathlib import Path

import pytest
from pyarrow import parquet

from backends.base import Batch, Outputs
from backends.onnx import OnnxBackend
from bulk.items import Slice
from bulk.scorer import Scorer
from bulk.work import Claim, Scored
from models.store import import_package
from tests.bulk.conftest import LEVELS
from tests.bulk.scoring import fail, parts_in, probability_of_plain, rows_in, succeed
from tests.linear import linear_package, weights_of
from tests.tiny import plain, tiny_package


def test_every_picture_of_a_folder_is_a_row_with_its_own_answer_and_equal_ones_are_computed_once(
    tiny: str, folder: Path, tmp_path: Path
) -> None:
    printed = succeed(folder, "--model", "tiny", "--out", tmp_path / "out", "--part-rows", "2", "--summary")
    assert "5 rows" in printed and "4 answered, 1 with an error" in printed
    assert "4 inputs were computed" in printed  # three levels and the damaged one
    assert "left out (a glob takes them): 1" in printed
    rows = rows_in(tmp_path / "out")
    names = ["0.png", "1.png", "more/2.PNG", "more/3.PNG", "more/damaged.jpg"]
    assert [row["input"] for row in rows] == [str(folder / name) for name in names]
    for row, level in zip(rows, LEVELS, strict=False):
        assert row["sha256"] == hashlib.sha256(plain(level)).hexdigest()
        assert row["probabilities"]["bright"] == pytest.approx(probability_of_plain(level), abs=1e-6)
        assert row["label"] == ("bright" if level > 127 else "dark")
        assert row["confidence"] == row["probabilities"][row["label"]]
        assert "Only for tests." in row["warnings"] and "blurry" in row["warnings"][1]
        assert row["model"] == tiny and row["error"] is None
    assert {**rows[2], "input": ""} == {**rows[0], "input": ""}
    assert "damaged" in rows[4]["error"] and rows[4]["label"] is None
    assert parts_in(tmp_path / "out") == [f"part-00000{part}.jsonl" for part in range(3)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rows"], summary["errors"], summary["labels"]) == (5, 1, {"dark": 3, "bright": 1})
    bins = [0] * 20
    for level in LEVELS:
        bins[int(probability_of_plain(level) * 20)] += 1
    assert summary["histogram"]["counts"] == bins and summary["histogram"]["of"] == "P(bright)"
    assert (tmp_path / "out" / "summary.svg").read_text().count("<rect") == 20


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_every_format_holds_the_same_rows(tiny: str, folder: Path, tmp_path: Path, form: str) -> None:
    succeed(folder, "--model", "tiny", "--out", tmp_path / "jsonl")
    succeed(folder, "--model", "tiny", "--out", tmp_path / form, "--format", form)
    (part,) = (tmp_path / form).glob("part-*")
    expected = rows_in(tmp_path / "jsonl")
    if form == "parquet":
        got = [
            row | {"probabilities": dict(row["probabilities"]) if row["probabilities"] else None}
            for row in parquet.read_table(part).to_pylist()
        ]
    else:
        with part.open(newline="") as file:
            got = [{name: text or None for name, text in row.items()} for row in csv.DictReader(file)]
        for row in got:
            for name in ("confidence", "probabilities", "warnings"):
                row[name] = json.loads(row[name]) if row[name] else None
    assert got == expected


def test_overlays_are_drawn_once_for_equal_pictures_and_named_in_the_row(
    tiny: str, folder: Path, tmp_path: Path
) -> None:
    succeed(folder, "--model", "tiny", "--out", tmp_path / "out", "--explain")
    rows = rows_in(tmp_path / "out")
    assert [bool(row["overlay"]) for row in rows] == [True] * 4 + [False]
    assert rows[0]["overlay"] == rows[2]["overlay"]
    drawn = list((tmp_path / "out" / "overlays").rglob("*.png"))
    assert {str(path.relative_to(tmp_path / "out")) for path in drawn} == {row["overlay"] for row in rows[:4]}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn) and len(drawn) == 3


def test_a_model_without_a_gradient_is_explained_by_masks(home: Path, folder: Path, tmp_path: Path) -> None:
    import_package(tiny_package(tmp_path / "plain", "plain"))
    succeed(folder / "0.png", "--model", "plain", "--out", tmp_path / "out", "--explain")
    (row,) = rows_in(tmp_path / "out")
    assert (tmp_path / "out" / row["overlay"]).exists() and row["label"] == "dark"


def test_a_table_of_rows_is_answered_by_number_and_a_wrong_row_costs_the_others_nothing(
    home: Path, tmp_path: Path
) -> None:
    import_package(linear_package(tmp_path / "linear", 3))
    table = tmp_path / "rows.csv"
    table.write_text("x0,x1,second,note\n1,2,3,a\n1,2,3,b\nmany,2,3,c\n4,5\n-1,0.5,2,d\n")
    printed = succeed(table, "--model", "linear", "--out", tmp_path / "out", "--column", "x2=second", "--part-rows", 3)
    assert "5 rows" in printed and "2 with an error" in printed and "3 inputs were computed" in printed
    rows = rows_in(tmp_path / "out")
    assert [row["input"] for row in rows] == [f"{table}#{number}" for number in range(1, 6)]
    for row, values in ((rows[0], (1, 2, 3)), (rows[1], (1, 2, 3)), (rows[4], (-1, 0.5, 2))):
        total = sum(value * weight for value, weight in zip(values, weights_of(3).tolist(), strict=True))
        assert row["values"] == {"sum": pytest.approx(total, rel=1e-6), "negative": pytest.approx(-total, rel=1e-6)}
    assert "x0 must be a number" in rows[2]["error"] and "2 cells" in rows[3]["error"]
    assert rows[0]["sha256"] == rows[1]["sha256"] != rows[4]["sha256"]


def test_a_threshold_decides_as_it_does_in_a_request(tiny: str, folder: Path, tmp_path: Path) -> None:
    low = probability_of_plain(30) * 0.99
    succeed(folder, "--model", "tiny", "--out", tmp_path / "out", "--threshold", low)
    assert [row["label"] for row in rows_in(tmp_path / "out")[:4]] == ["dark", "bright", "dark", "bright"]


def test_a_failing_backend_costs_its_own_pictures_alone_and_nothing_is_left_out(
    tiny: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, score = OnnxBackend.run, Scorer.score

    def fail_on_the_darkest(backend: OnnxBackend, batch: Batch) -> Outputs:
        if (batch < -0.9).any():
            raise RuntimeError("a picture of level 10")
        return compute(backend, batch)

    def score_with_it(scorer: Scorer, part: int, items: Slice, claim: Claim) -> Scored:
        monkeypatch.setattr(OnnxBackend, "run", fail_on_the_darkest)  # from now on, after the self-check
        return score(scorer, part, items, claim)

    monkeypatch.setattr(Scorer, "score", score_with_it)
    succeed(folder, "--model", "tiny", "--out", tmp_path / "out")
    rows = rows_in(tmp_path / "out")
    assert [row["error"] for row in rows[:4]] == ["The prediction failed.", None, "The prediction failed.", None]


def test_what_cannot_be_scored_is_said_before_anything_is_computed(tiny: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "Did you mean tiny?" in fail(folder, "--model", "tinny", "--out", out)
    assert "There is no version ffff of tiny" in fail(folder, "--model", "tiny:ffff", "--out", out)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has nothing that tiny takes" in fail(empty, "--model", "tiny", "--out", out)
    assert "No such file" in fail(tmp_path / "nowhere", "--model", "tiny", "--out", out)
    assert "lies in SOURCE" in fail(folder, "--model", "tiny", "--out", folder / "out")
    assert "lies in SOURCE" in fail(folder / "**" / "*.png", "--model", "tiny", "--out", folder / "out")
    assert "holds no run" in fail(folder, "--model", "tiny", "--out", folder.parent)
    assert "a folder of this machine" in fail(folder, "--model", "tiny", "--out", "s3://bucket/out")
    assert "a probability" in fail(folder, "--model", "tiny", "--out", out, "--threshold", "2")
    table = tmp_path / "table.csv"
    table.write_text("name,size\na,1\n")
    assert "has the columns name, size" in fail(table, "--model", "tiny", "--out", out)
    assert "Did you mean name?" in fail(table, "--model", "tiny", "--out", out, "--column", "path=nam")
    assert not parts_in(out)


def test_a_run_in_which_every_row_failed_does_not_pass_for_a_success(tiny: str, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path\nnot-there.png\n")
    assert "Every row has an error" in fail(table, "--model", "tiny", "--out", tmp_path / "out")
    assert "No such file" in rows_in(tmp_path / "out")[0]["error"]
