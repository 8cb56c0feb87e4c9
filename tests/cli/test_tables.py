"""Tables of measured quality, as a pipe gets them."""

import pytest

from cli.tables import print_quality

METRICS: dict[str, object] = {
    "auc": 0.95,
    "auc_ci95": [0.91, 0.98],
    "n": 600,
    "data": "test scans",
    "strata": {"view=axial": {"auc": 0.96, "auc_ci95": [0.9, 0.99], "n": 400, "scans": 30}},
    "other_hospital": {"sensitivity": 0.85, "sensitivity_ci95": [0.8, 0.9]},
}


def test_figures_come_with_their_intervals_then_strata_then_other_data(capsys: pytest.CaptureFixture[str]) -> None:
    print_quality(METRICS)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["auc", "0.95", "0.91", "to", "0.98"] in lines
    assert ["data", "test", "scans"] in lines
    assert ["view=axial", "0.96", "(0.9", "to", "0.99)", "400", "30"] in lines
    assert ["sensitivity", "0.85", "0.8", "to", "0.9"] in lines
    assert not any("ci95" in word for line in lines for word in line)
    titles = [" ".join(line) for line in lines if line[0] == "Measured"]
    assert titles == ["Measured quality", "Measured quality, by stratum", "Measured quality: other hospital"]


def test_a_model_without_figures_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_quality({})
    assert capsys.readouterr().out == ""
