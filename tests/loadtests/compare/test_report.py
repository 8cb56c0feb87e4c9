import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.compare import report
from loadtests.compare.load import Load
from loadtests.compare.plot import plot
from loadtests.compare.regimes import COMPUTE, OVERHEAD
from loadtests.compare.turns import CLIENTS, Turn

CPU_MS = {1: 60.0, 16: 65.25, 64: 70.0}


def turn(number: int, name: str, rate: float, p50_ms: float, errors: int = 0, regime: str = COMPUTE) -> Turn:
    problem = "500: oops" if errors else ""
    loads = {clients: Load(rate, p50_ms, 2 * p50_ms, errors, 100, problem, CPU_MS[clients]) for clients in CLIENTS}
    opened = Load(rate, 10.0, 20.0, 0, 100, refused=3) if name == "vitrine" else None
    return Turn(number, regime, name, 2.0, 300.0, loads, opened)


@pytest.fixture
def run() -> report.Run:
    turns = [
        turn(number, name, rate * drift, p50_ms, errors, regime)
        for regime in (COMPUTE, OVERHEAD)
        for number, drift in enumerate((1.0, 0.5, 2.0))  # the whole machine is now slower, now faster
        for name, rate, p50_ms, errors in (
            ("raw", 64.0, 28.0, 0),
            ("vitrine", 62.0, 30.0, 0),
            ("mosec", 58.0, 68.0, 0),
            ("fastapi", 20.0, 25.0, 0),
            ("bentoml", 10.0, 200.0, 7),
        )
    ]
    titles = {"raw": "Raw", "vitrine": "Vitrine 1", "mosec": "Mosec 1", "fastapi": "FastAPI 1", "bentoml": "BentoML 1"}
    return report.Run(turns, {"ray": "could not be installed: no | wheel"}, titles | {"ray": "Ray"}, "today", "so", 9e3)


def test_aims_are_ratios_of_the_same_round(run: report.Run) -> None:
    aims = {aim.what: aim for aim in run.aims()}
    ratios = [(round(aim.ratio, 3), aim.met) for aim in aims.values()]
    assert ratios[0] == (round(62 / 64, 3), True)
    assert aims["kidney-stone, 16 clients: images/s over the best peer (mosec)"].low == pytest.approx(62 / 58)
    # FastAPI is quicker alone, but answers a third of the images: no peer of equal throughput.
    assert aims["kidney-stone, 1 client: p50 over the quickest peer of equal throughput (mosec)"].ratio == 30 / 68
    assert ratios[4] == (round(62 / 58, 3), True)
    opened = aims["kidney-stone, open loop at 70 %: p99 over p50"]
    assert (opened.ratio, opened.met) == (2.0, True)
    refused = aims["kidney-stone, open loop at 70 %: refused requests"]
    assert (refused.ratio, refused.met) == (3.0, False)


def test_a_missing_peer_is_shown_with_its_reason_and_errors_are_counted(run: report.Run) -> None:
    text = report.block(run)
    assert text.count("| Ray | missing: could not be installed: no / wheel |") == 2
    assert "| BentoML 1 |" in text and "63 of 900" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert "| 60.0 / 60.0 / 60.0 | 60.00 / 65.25 / 70.00 | 0 of 1,200 |" in text  # Vitrine, the open loop too
    assert [line.split(" | ")[0] for line in lines[1:5]] == ["| ---", "| Raw", "| Vitrine 1", "| Mosec 1"]


def test_instructions_are_a_column_where_the_machine_counts_them(run: report.Run) -> None:
    text = report.block(run)
    assert "instructions a request" not in text and "This machine does not count instructions" in text
    counted = [
        replace(turn, loads={c: replace(load, instructions=1e3 * c) for c, load in turn.loads.items()})
        for turn in run.turns
    ]
    text = report.block(run._replace(turns=counted))
    assert "thousand instructions a request at 1 / 16 / 64 | errors" in text and "does not count" not in text
    assert "| 60.00 / 65.25 / 70.00 | 1.0 / 16.0 / 64.0 | 0 of 1,200 |" in text


def test_the_table_says_how_many_rounds_each_had(run: report.Run) -> None:
    more = [turn(number, name, 60.0, 30.0) for number in (3, 4) for name in ("vitrine", "mosec")]
    compute = report.block(run._replace(turns=[*run.turns, *more])).split("### ")[1]
    lines = [line.strip("| ").split(" | ") for line in compute.splitlines() if line.startswith("| ")]
    assert lines[0][-1] == "rounds"
    rounds = {line[0]: line[-1] for line in lines if "missing" not in line[1]}
    assert rounds["Vitrine 1"] == rounds["Mosec 1"] == "5" and rounds["BentoML 1"] == rounds["Raw"] == "3"


def test_only_what_stands_between_the_marks_is_rewritten(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.MARKS[0]}\nold \\1\n{report.MARKS[1]}\nafter\n")
    for _ in range(2):
        report.rewrite(document, r"new \d")
    assert document.read_text() == f"before\n{report.MARKS[0]}\nnew \\d\n{report.MARKS[1]}\nafter\n"
    report.rewrite(tmp_path / "fresh.md", "first")
    assert "first" in (tmp_path / "fresh.md").read_text()


def test_data_and_picture_are_written_even_where_figures_are_missing(run: report.Run, tmp_path: Path) -> None:
    hurt = Turn(0, COMPUTE, "ray", problem="ended with code 1")
    run = run._replace(turns=[*run.turns, hurt])
    report.save(run, tmp_path / "data" / "compare.json")
    kept = json.loads((tmp_path / "data" / "compare.json").read_text(), parse_constant=pytest.fail)
    assert kept["turns"][-1]["problem"] == "ended with code 1" and kept["turns"][-1]["start_s"] is None
    assert math.isclose(kept["turns"][0]["loads"]["16"]["rate"], 64.0)
    plot(run, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_is_there() -> None:
    from loadtests.compare.__main__ import main

    result = CliRunner().invoke(main, ["--only", "raw,nobody"])
    assert result.exit_code == 2 and "nobody" in result.output and "mosec" in result.output
