"""A whole model package of a few kilobytes, and what it must answer, worked out by NumPy alone.

The graph averages each channel of a 16 x 16 picture and multiplies by a 3 x 2 matrix. Its explain graph averages the
channels over 4 x 4 squares, multiplies by the column of the explained class, and keeps what is above zero.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.package import StoredModel, content_version, file_digests, open_stored
from tests.conftest import encode

WEIGHT = np.array([[-2.0, 2.0], [1.0, -1.0], [-0.5, 0.5]], np.float32)
CARD = """
name = "{name}"
title = "Tiny"
description = "Averages channels."
task = "image-classification"
architecture = "efficientnet-b4-head"
parameters = 6
labels = ["dark", "bright"]
positive_label = "bright"
threshold = 0.5
licence = "Apache-2.0"
data = "none"
warnings = ["Only for tests."]

[input]
size = [16, 16]
library = "opencv"
kernel = "linear"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
blur_below = 1.0

[limits]
max_items = 4
"""


EXITS = """
[early_exit]
layer = "none of this graph's"
clear_below = 0.02
clear_from = 0.98
"""


EXPLAINED = """
[explain]
layer = "none of this graph's"
method = "layercam"
"""
REGRESSOR = """
name = "prices"
title = "Prices"
description = "What a flat may cost, and how sure that is."
task = "tabular-regression"
architecture = "onnx"
licence = "Apache-2.0"
data = "none"

[[outputs]]
name = "price"
unit = "CHF"

[input]
kind = "row"

[[input.features]]
name = "area"
unit = "m²"
low = 0
high = 1000
example = 60

[[input.features]]
name = "heating"
categories = ["gas", "heat pump"]
example = "gas"
"""
"""The card of a model of rows, which answers with one value."""
GAINS = {"gradcam": 1.0, "gradcam++": 2.0, "layercam": 3.0, "hirescam": 4.0}
"""What tells the maps of the methods apart: each is the same map times this."""


def plain(level: int) -> bytes:
    """A flat grey PNG."""
    return encode(np.full((16, 16, 3), level, np.uint8))


def logits_of_plain(level: int) -> npt.NDArray[np.float32]:
    """What the graph gives for it."""
    return np.asarray(np.full(3, (level / 255 - 0.5) / 0.5) @ WEIGHT, np.float32)


def bright_square() -> npt.NDArray[np.uint8]:
    """A dark picture with one bright square, red at its top left: RGB, shape (16, 16, 3), uint8."""
    pixels = np.full((16, 16, 3), 20, np.uint8)
    pixels[:4, :4] = (250, 20, 20)
    pixels[8:12, 4:8] = (20, 250, 20)
    return pixels


def map_of(pixels: npt.NDArray[np.uint8], class_id: int, method: str) -> npt.NDArray[np.float32]:
    """What the explain graph gives for a picture of 16 x 16 pixels: shape (4, 4), float32."""
    scaled = (pixels / 255 - 0.5) / 0.5
    squares = scaled.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    return np.asarray(np.maximum(squares @ WEIGHT[:, class_id], 0) * GAINS[method], np.float32)


def tiny_package(
    folder: Path, name: str = "tiny", batch: int | None = None, *, exits: bool = False, explained: bool = False
) -> Path:
    """Write the package; `batch` fixes the graph's batch axis, and with `explained` there is an explain graph.

    With `exits` an early exit gives three times the logits wherever one of those is at least 2.25: at levels under 64
    and from 192 on.
    """
    (folder / "goldens").mkdir(parents=True)
    (folder / "card.toml").write_text(CARD.format(name=name) + EXITS * exits + EXPLAINED * explained)
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch or "N", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch or "N", 2])
    weights = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    outputs = [logits]
    if exits:
        nodes[-1].output[0] = "whole"
        nodes += [
            helper.make_node("Mul", ["whole", "gain"], ["sooner"]),
            helper.make_node("ReduceMax", ["sooner"], ["most"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["most", "limit"], ["early"]),
            helper.make_node("Where", ["early", "sooner", "whole"], ["logits"]),
        ]
        constants = {"gain": 3, "limit": 2.25}
        weights += [numpy_helper.from_array(np.array(each, np.float32), name) for name, each in constants.items()]
        outputs.append(helper.make_tensor_value_info("early", TensorProto.BOOL, []))
    _write_graph(folder / "predict.onnx", nodes, [image], outputs, weights)
    if explained:
        _write_explain_graph(folder / "explain.onnx")
    (folder / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    rows = []
    for level in (10, 240):
        (folder / "goldens" / f"{level}.png").write_bytes(plain(level))
        rows.append({"file": f"{level}.png", "logits": [float(value) for value in logits_of_plain(level)]})
    goldens = {"reference": "NumPy", "tolerance": 0.5 if exits else 1e-3, "goldens": rows}
    goldens |= {"variant": "early-exit"} if exits else {}
    (folder / "goldens" / "goldens.json").write_text(json.dumps(goldens))
    return folder


def _write_explain_graph(path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16]),
        helper.make_tensor_value_info("target", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("contrast", TensorProto.INT64, ["N"]),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["predicted"], axis=1, keepdims=0),
        helper.make_node("Less", ["target", "zero"], ["unasked"]),
        helper.make_node("Where", ["unasked", "predicted", "target"], ["chosen"]),
        helper.make_node("Less", ["contrast", "zero"], ["alone"]),
        helper.make_node("Where", ["alone", "nothing", "contrast"], ["opposed"]),
        helper.make_node("Gather", ["columns", "chosen"], ["column of target"], axis=0),
        helper.make_node("Gather", ["columns", "opposed"], ["column of contrast"], axis=0),
        helper.make_node("Sub", ["column of target", "column of contrast"], ["column"]),
        helper.make_node("AveragePool", ["image"], ["squares"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["squares", "column"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "channel"], ["sum"], keepdims=0),
        helper.make_node("Relu", ["sum"], ["map"]),
        *(helper.make_node("Mul", ["map", f"gain of {method}"], [method]) for method in GAINS),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "axes": np.array([2, 3], np.int64),
        "weight": WEIGHT,
        "zero": np.array(0, np.int64),
        "nothing": np.array(2, np.int64),
        "columns": np.concatenate([WEIGHT.T, np.zeros((1, 3), np.float32)]).reshape(3, 3, 1, 1),
        "channel": np.array([1], np.int64),
    }
    constants |= {f"gain of {method}": np.array(gain, np.float32) for method, gain in GAINS.items()}
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])]
    outputs += [helper.make_tensor_value_info(method, TensorProto.FLOAT, ["N", 4, 4]) for method in GAINS]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    _write_graph(path, nodes, inputs, outputs, weights)


def _write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> None:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def seal(folder: Path) -> StoredModel:
    """Write the manifest of a package, as the store does, and open it."""
    files = file_digests(folder)
    (folder / "manifest.json").write_text(json.dumps({"version": content_version(files), "files": files}))
    return open_stored(folder)
