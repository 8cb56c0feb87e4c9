"""A complete package around the small network, which is explained in a few milliseconds."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from export.graph import trace_to_onnx, use_external_weights
from export.onnx import export_explain_graph
from models.card import read_image_card
from models.checkpoint import round_weights
from models.goldens import write_goldens
from models.package import GRAPH, WEIGHTS
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import encode
from tests.explain.nets import SIZE, SmallNet

CARD = f"""
name = "small"
title = "Small"
description = "Explains itself."
task = "image-classification"
architecture = "efficientnet-b4-head"
parameters = 1
labels = ["red", "green", "blue"]
licence = "Apache-2.0"
data = "none"

[input]
size = [{SIZE[0]}, {SIZE[1]}]
library = "opencv"
kernel = "linear"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[explain]
layer = "middle"
method = "layercam"
"""


def coloured(seed: int) -> bytes:
    """Return a PNG of a bright rectangle on noise, 60 pixels high and 80 wide."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (60, 80, 3)).astype(np.uint8)
    y, x = rng.integers(0, 40), rng.integers(0, 60)
    image[y : y + 20, x : x + 20, seed % 3] = 255
    return encode(image)


def tensor_of(data: bytes, folder: Path) -> np.ndarray:
    """Transform a picture as the package's card says, into shape (1, 3, 32, 48), float32."""
    card = read_image_card(folder / "card.toml")
    return transform(decode(data, card.limits), card.input).tensor[None]


def small_net() -> SmallNet:
    """Return the network with its weights rounded as in the package."""
    net = SmallNet()
    net.load_state_dict(
        {name: tensor.to(net.state_dict()[name].dtype) for name, tensor in round_weights(net.state_dict()).items()}
    )
    return net.requires_grad_(False)


def small_package(folder: Path, *, explained: bool = True) -> Path:
    """Write the package, with its explain graph unless `explained` is False."""
    (folder / "goldens").mkdir(parents=True)
    (folder / "card.toml").write_text(CARD)
    net = small_net()
    save_file(round_weights(SmallNet().state_dict()), folder / WEIGHTS)
    graph = trace_to_onnx(net, {"image": torch.zeros(2, 3, *SIZE)}, ["logits"])
    use_external_weights(graph, folder / WEIGHTS)
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    images = {f"{seed}.png": coloured(seed) for seed in range(3)}
    tensors = np.concatenate([tensor_of(data, folder) for data in images.values()])
    logits = net(torch.from_numpy(tensors)).numpy()
    write_goldens(folder, list(images.items()), logits, "PyTorch")
    assert json.loads((folder / "goldens" / "goldens.json").read_text())["goldens"]
    if explained:
        assert export_explain_graph(read_image_card(folder / "card.toml"), net, folder, tensors) is None
    return folder
