"""A network of timm's from its file to a running server: the five labels are timm's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import config as timm_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform

from tests.conftest import ROOT
from tests.live.server import serving, vitrine

DEER = ROOT / "models" / "cifar10" / "goldens" / "04-deer.png"
NAME = "mobilenetv3_small_050.lamb_in1k"


@pytest.mark.slow
def test_a_network_of_timms_is_added_and_gives_the_five_labels_that_timm_gives(tmp_path: Path) -> None:
    torch.manual_seed(6)
    network = timm.create_model(NAME).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    home = tmp_path / "bentoml"
    vitrine(home, "models", "add", f"timm:{NAME}", "--weights", tmp_path / "model.safetensors", "--name", "imagenet")
    with serving(home, tmp_path / "server.log", VITRINE_MODELS="imagenet", VITRINE_DEFAULT_MODEL="imagenet") as server:
        server.wait_ready()
        url = f"{server.url}/models/imagenet/predict?top_k=5"
        answer = json.loads(requests.post(url, data=DEER.read_bytes(), timeout=60).text)

    resolve: Any = timm_config.resolve_model_data_config
    transform: Any = create_transform(**resolve(network), is_training=False)
    with torch.inference_mode():
        probabilities = network(transform(Image.open(DEER).convert("RGB"))[None]).softmax(1)[0]
    best = probabilities.topk(5)
    assert [entry["probability"] for entry in answer["top"]] == pytest.approx(best.values.tolist(), abs=1e-4)
    names = [ImageNetInfo().index_to_description(index) for index in np.asarray(best.indices).tolist()]
    assert [entry["label"].partition(" (")[0] for entry in answer["top"]] == [name.partition(" (")[0] for name in names]
