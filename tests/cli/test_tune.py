"""`vitrine tune`, as typed, on a model that answers in microseconds."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from models import store
from runners.cores import available_cores
from runners.plan import Plan
from runners.tuned import TUNING, tuned_plan
from settings import load_settings
from tests.tiny import tiny_package
from tuning.measure import ModelMeasurer
from tuning.search import Candidate, Outcome


def tune(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tune", *arguments])


@pytest.fixture
def tag(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tuning.candidates.BATCHES", (1, 4))
    monkeypatch.setattr("tuning.candidates.LINGERS_MS", (2.0,))
    load_settings.cache_clear()
    stored, _ = store.import_package(tiny_package(tmp_path / "tiny"))
    yield stored.tag
    load_settings.cache_clear()


def test_what_is_found_is_printed_drawn_written_shown_and_forgotten(tag: str) -> None:
    ran = tune("tiny", "--seconds", "0.1", "--slo-p99-ms", "60000", "--plot", "p99.png")
    assert ran.exit_code == 0, ran.output
    for words in (f"Tuning {tag}", "saturation, 1/s", "default", "ONNX Runtime", "requests/s", "Written: "):
        assert words in ran.output
    assert re.search(r"\d+ s of about \d+( to \d+)? min: saturation of lanes", ran.stderr)  # through a pipe
    assert Path("p99.png").read_bytes()[:4] == b"\x89PNG"
    stored = store.find("tiny")
    assert tuned_plan(stored.path, stored.tag, "cpu", available_cores()) is not None
    assert CliRunner().invoke(main, ["models", "verify", "tiny"]).exit_code == 0
    shown = CliRunner().invoke(main, ["models", "show", "tiny"]).output
    assert "Tuned" in shown and "slo_p99_ms" in shown and "lanes = " in shown
    assert store.import_package(Path("tiny"))[1] is False  # the same import keeps it
    assert (stored.path / TUNING).exists()
    assert tune(tag, "--forget").output == f"{tag}: back to the defaults\n"
    assert tune("tiny", "--forget").output == f"{tag}: was not tuned\n"
    assert "Tuned" not in CliRunner().invoke(main, ["models", "show", "tiny"]).output


def test_a_limit_that_nothing_keeps_is_one_sentence_and_writes_nothing(
    tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITRINE_MAX_BATCH", "64")
    monkeypatch.setenv("VITRINE_LINGER_MS", "60")  # held back whatever the plan: no machine is quick enough
    load_settings.cache_clear()
    ran = tune("tiny", "--seconds", "0.1", "--slo-p99-ms", "30")
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit)
    sentence = re.search(r"No plan keeps a p99 of 30 ms here: the lowest measured is ([0-9.]+) ms", ran.output)
    assert sentence and float(sentence[1]) >= 60
    assert "VITRINE_LINGER_MS=60 is set" in ran.output and "--slo-p99-ms" in ran.output
    assert not (store.find("tiny").path / TUNING).exists()


def test_without_matplotlib_there_is_no_plot_and_it_says_so(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep_the_default(measurer: ModelMeasurer, default: Plan, *rest: object) -> Outcome:
        candidate = Candidate(default, 1.0, 100.0, 90.0)
        return Outcome(candidate, candidate, [candidate])

    monkeypatch.setattr("cli.tune.search", keep_the_default)
    monkeypatch.setattr("cli.tune.find_spec", lambda name: None)
    ran = tune("tiny", "--seconds", "0.1", "--slo-p99-ms", "60000")
    assert ran.exit_code == 0 and "No plot: matplotlib is not installed" in ran.output
    assert not Path("runs").exists()


def test_an_unknown_model_is_a_sentence_that_lists_the_known(tag: str) -> None:
    ran = tune("kidny-stone")
    assert ran.exit_code == 1 and isinstance(ran.exception, SystemExit)
    assert f"kidny-stone is not installed. Installed: {tag}" in ran.output


def test_a_damaged_model_is_not_measured(tag: str) -> None:
    graph = store.find("tiny").graph
    graph.write_bytes(graph.read_bytes()[:-1])
    ran = tune("tiny", "--seconds", "0.1")
    assert ran.exit_code == 1 and "predict.onnx is damaged" in ran.output
