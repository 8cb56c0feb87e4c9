"""A model with an early exit: who answers which picture, against logits worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY

from runners.plan import CoreShare
from serving.backend import device_of
from serving.loaded_model import RunnerOptions, ServedModel
from tests.serving.test_repository_edges import seal
from tests.tiny import logits_of_plain, plain, tiny_package

SOONER, LATER = (0, 63, 192, 255), (65, 100, 128, 190)


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    stored = seal(tiny_package(tmp_path / "exits", "tiny-exits", 1, exits=True))
    loaded = ServedModel(stored.card, stored)
    loaded.load(RunnerOptions(), CoreShare(2))
    assert (loaded.state, loaded.detail) == ("ready", "")
    return loaded


def test_every_answer_says_who_gave_it_and_both_are_counted(model: ServedModel) -> None:
    assert model.exits
    futures = {level: model.submit(plain(level)) for level in (*SOONER, *LATER)}
    for level, future in futures.items():
        said, early = future.result(10).value, level in SOONER
        assert said.answered_by == ("early_exit" if early else "network")
        assert np.allclose(said.logits, (3 if early else 1) * logits_of_plain(level), atol=1e-4)
    counted = [
        REGISTRY.get_sample_value("vitrine_early_exit_total", {"model": "tiny-exits", "by": by})
        for by in ("early_exit", "network")
    ]
    assert counted == [len(SOONER), len(LATER)]  # its goldens, which it replayed first, are not in it
    assert model.close(5)


def test_a_model_without_an_exit_says_nothing_of_it(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "plain"))
    plain_one = ServedModel(stored.card, stored)
    plain_one.load(RunnerOptions(), CoreShare(1))
    assert not plain_one.exits and plain_one.submit(plain(255)).result(10).value.answered_by is None
    assert plain_one.close(5)


def test_an_output_of_that_name_means_nothing_in_a_graph_that_is_no_such_variant(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "own", "tiny-own", 1, exits=True)
    index = package / "goldens" / "goldens.json"
    index.write_text(index.read_text().replace('"variant": "early-exit"', '"variant": "fp32"'))
    stored = seal(package)
    model = ServedModel(stored.card, stored)
    model.load(RunnerOptions(), CoreShare(1))
    assert not model.exits and model.submit(plain(255)).result(10).value.answered_by is None
    assert model.close(5)


def test_it_stays_on_the_cpu_where_its_graph_is(model: ServedModel) -> None:
    assert model.stored is not None
    assert (model.stored.variant, device_of(model.stored, "torch-cpu"), model.device) == ("early-exit", "cpu", "cpu")
    assert model.close(5)
