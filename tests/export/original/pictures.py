"""A small graph of pictures that sees where and of which colour something is, and originals of it, written by hand."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.conftest import encode

SIZE, CLASSES, LABELS = 32, 3, ("cat", "dog", "fox")
CARD = """\
name = "zoo"
title = "Zoo"
description = "Which of three animals a picture shows."
task = "image-classification"
architecture = "onnx"
labels = ["cat", "dog", "fox"]
licence = "none"
data = "none"

[input]
size = [32, 32]
library = "opencv"
kernel = "linear"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WEIGHT = np.random.default_rng(3).normal(size=(3 * 8 * 8, CLASSES)).astype(np.float32) / 4

Floats = npt.NDArray[np.float64]
Read = Callable[[bytes], Floats]
"""From an encoded picture to the network's input: shape (h, w, 3), float64."""


def package(folder: Path, card: str = CARD) -> Path:
    """Write a package: the means of squares of 4 x 4 pixels, times a matrix."""
    (folder / "goldens").mkdir(parents=True)
    (folder / "card.toml").write_text(card)
    nodes = [
        helper.make_node("AveragePool", ["image"], ["squares"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["squares"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "zoo", [image], [logits], [numpy_helper.from_array(WEIGHT, "weight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "predict.onnx")
    return folder


def examples(folder: Path, count: int = 6) -> Path:
    """Write pictures of other sizes than the network's, with edges and colours, so that every step shows."""
    folder.mkdir()
    for index in range(count):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
        pixels = np.asarray(cv2.resize(coarse, (150 + 10 * index, 97), interpolation=cv2.INTER_CUBIC), np.uint8)
        pixels[20:60, 30:33] = rng.integers(0, 256, 3)
        (folder / f"{index}.png").write_bytes(encode(pixels))
    return folder


def by_opencv(data: bytes, kernel: int = cv2.INTER_LINEAR) -> npt.NDArray[np.uint8]:
    """Decode as RGB and resize by OpenCV."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=kernel), np.uint8)


def by_pillow(data: bytes, kernel: Image.Resampling = Image.Resampling.BILINEAR) -> npt.NDArray[np.uint8]:
    """Decode and resize by Pillow."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((SIZE, SIZE), kernel))


def normalised(pixels: npt.NDArray[np.uint8], mean: Floats = MEAN, std: Floats = STD) -> Floats:
    return (pixels / 255 - mean) / std


def original_logits(folder: Path, read: Read) -> dict[str, Floats]:
    """What an original that reads pictures so gives for those in a folder."""
    answers = {}
    for path in sorted(folder.iterdir()):
        image = read(path.read_bytes()).transpose(2, 0, 1)
        squares = image.reshape(3, 8, 4, 8, 4).mean(axis=(2, 4))
        answers[path.name] = squares.ravel() @ WEIGHT.astype(np.float64)
    return answers


def softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max())
    return np.asarray(shifted / shifted.sum())
