"""Served models: each is checked against its goldens before it answers, and one that fails harms no other."""

import json
import logging
import re
import time
from pathlib import Path

import numpy as np
import pytest

from errors import InvalidImage, NotFound, Unavailable
from models.package import StoredModel, content_version, file_digests, open_stored
from serving.options import RunnerOptions
from serving.repository import ModelRepository
from tests.tiny import logits_of_plain, plain, seal, tiny_package


def stored(folder: Path, name: str = "tiny") -> StoredModel:
    return seal(tiny_package(folder, name))


def started(*models: StoredModel, default: str = "tiny") -> ModelRepository:
    served = ModelRepository(models, RunnerOptions(), default=default)
    served.start()
    deadline = time.monotonic() + 30
    while any(model.state in ("loading", "checking") for model in served.models.values()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return served


def test_a_model_answers_what_numpy_works_out(tmp_path: Path) -> None:
    served = started(stored(tmp_path / "a"))
    assert served.ready
    for level in (0, 100, 255):
        answer = served.get().submit(plain(level)).result(10)
        assert np.allclose(answer.value.logits, logits_of_plain(level), atol=1e-5)
        assert answer.value.sharpness == 0
    with pytest.raises(InvalidImage):
        served.get().submit(b"nothing").result(10)
    assert served.close(10)


def test_how_long_a_newcomer_would_wait_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told() -> float:
        return served.get().gauges()["expected_wait"]

    with caplog.at_level(logging.INFO, "vitrine"):
        served = started(stored(tmp_path / "a"))
    lanes = served.get().lanes
    assert lanes is not None and lanes.stats().item_seconds > 0 and told() == 0
    assert re.search(
        r"tiny:\w+ is ready after .* on cpu; an item takes [\d.e-]+ ms (in a lane|on the event)", caplog.text
    )
    with lanes.large_json.job(1000) as job:
        job.took_s = 3.0
    with lanes.large_json.job(1000):
        assert told() == pytest.approx(3.0)
    assert told() == 0
    assert served.close(10)


def test_a_golden_that_is_off_stops_its_model_and_says_by_how_much(tmp_path: Path) -> None:
    good, bad = stored(tmp_path / "a"), tmp_path / "b"
    tiny_package(bad, "other")
    goldens = json.loads((bad / "goldens" / "goldens.json").read_text())
    goldens["goldens"][1]["logits"] = [0.0, 0.0]
    (bad / "goldens" / "goldens.json").write_text(json.dumps(goldens))
    files = file_digests(bad)
    (bad / "manifest.json").write_text(json.dumps({"version": content_version(files), "files": files}))
    served = started(good, open_stored(bad))
    failed = served.get("other")
    away = abs(1 / (1 + np.exp(-np.diff(logits_of_plain(240))[0])) - 0.5)
    assert failed.state == "failed"
    assert f"{away:.2e}" in failed.detail and "OnnxBackend" in failed.detail and "240.png" in failed.detail
    with pytest.raises(Unavailable, match="other is failed"):
        failed.submit(plain(1))
    assert served.ready and served.get("tiny").submit(plain(9)).result(10)
    served.close(10)


def test_a_flipped_byte_stops_only_its_model(tmp_path: Path) -> None:
    good, bad = stored(tmp_path / "a"), stored(tmp_path / "b", "other")
    graph = bytearray(bad.graph.read_bytes())
    graph[20] ^= 1
    bad.graph.write_bytes(graph)
    served = started(good, bad)
    assert served.get("other").state == "failed" and "predict.onnx is damaged" in served.get("other").detail
    assert served.ready
    served.close(10)


def test_the_service_is_not_ready_while_its_default_model_is_not(tmp_path: Path) -> None:
    served = started(stored(tmp_path / "a"), default="absent")
    assert not served.ready
    with pytest.raises(NotFound, match="Known models: tiny"):
        served.get()
    served.close(10)


def test_a_model_that_is_not_installed_says_how_to_install_it(tmp_path: Path) -> None:
    one = stored(tmp_path / "a")
    missing = {"tiny": (one.card, "install it with `vitrine models import tiny`")}
    served = ModelRepository([], RunnerOptions(), missing=missing, default="tiny")
    served.start()
    with pytest.raises(Unavailable, match="install it with `vitrine models import tiny`"):
        served.get().submit(b"")
    assert not served.ready and served.close(10)


def test_after_close_nothing_is_taken(tmp_path: Path) -> None:
    served = started(stored(tmp_path / "a"))
    assert served.close(10) and not served.ready
    with pytest.raises(Unavailable, match="shutting down"):
        served.get().submit(plain(1))
