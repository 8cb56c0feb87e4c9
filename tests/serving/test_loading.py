"""The choice of the backend, and PyTorch's path from picture to probabilities, on torch's CPU device."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.onnx import OnnxBackend
from backends.torch import TorchBackend
from errors import StoreError
from models.card import read_card
from models.package import MANIFEST, StoredModel, file_digests
from runners.cores import CoreShare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION, device_for, load_backend
from serving.options import RunnerOptions
from tests.conftest import ROOT
from tests.explain.nets import SmallNet
from tests.explain.package import coloured, small_net, small_package, tensor_of

SHARE = CoreShare(2)


def stored(package: Path) -> StoredModel:
    written = {"name": "small", "version": "0" * 16, "files": file_digests(package)}
    (package / MANIFEST).write_text(json.dumps(written))
    return StoredModel(read_card(package / "card.toml"), "0" * 16, package)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredModel:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    return stored(small_package(tmp_path / "small"))


def test_pictures_go_where_they_are_told_and_rows_and_graphs_stay_on_the_cpu(small: StoredModel) -> None:
    assert device_for(small, "torch-cpu") == "torch-cpu" and device_for(small, "cpu") == "cpu"
    rows = StoredModel(read_card(ROOT / "models" / "churn" / "card.toml"), "0" * 16, ROOT / "models" / "churn")
    graph = StoredModel(read_card(ROOT / "models" / "imagenet" / "card.toml"), "0" * 16, ROOT / "models" / "imagenet")
    assert device_for(rows, "torch-cpu") == device_for(graph, "torch-cpu") == "cpu"
    assert isinstance(load_backend(small, "cpu", SHARE)[0], OnnxBackend)
    assert isinstance(load_backend(small, "torch-cpu", SHARE)[0], TorchBackend)


def test_a_model_served_by_pytorch_answers_as_its_network(small: StoredModel) -> None:
    model = LoadedModel(small.card, small, PREDICTION)
    model.load(RunnerOptions(max_batch=4, device="torch-cpu"), SHARE)
    assert (model.state, model.detail, model.device) == ("ready", "", "cpu")
    pictures = [coloured(seed) for seed in range(12)]
    futures = [model.submit(data) for data in pictures]
    network = small_net()
    for data, future in zip(pictures, futures, strict=True):
        with torch.inference_mode():
            expected = network(torch.from_numpy(tensor_of(data, small.path))).numpy()[0]
        assert np.allclose(future.result(30).value.logits, expected, atol=1e-4)
    assert model.close(10)


def test_a_device_that_is_not_there_fails_the_model_and_says_what_to_do(small: StoredModel) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    model = LoadedModel(small.card, small, PREDICTION)
    model.load(RunnerOptions(device="cuda:0"), SHARE)
    assert model.state == "failed"
    assert "VITRINE_DEVICE" in model.detail and "cpu" in model.detail


def test_without_pytorch_the_message_names_the_extra(small: StoredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "backends.torch", None)
    with pytest.raises(StoreError, match="`torch` extra"):
        load_backend(small, "torch-cpu", SHARE)
