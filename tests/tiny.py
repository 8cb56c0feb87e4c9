"""A whole model package of a few kilobytes, and what it must answer, worked out by NumPy alone.

The graph averages each channel of a 16 x 16 picture and multiplies by a 3 x 2 matrix.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def plain(level: int) -> bytes:
    """A flat grey PNG."""
    return encode(np.full((16, 16, 3), level, np.uint8))


def logits_of_plain(level: int) -> npt.NDArray[np.float32]:
    """What the graph gives for it."""
    return np.asarray(np.full(3, (level / 255 - 0.5) / 0.5) @ WEIGHT, np.float32)


def tiny_package(folder: Path, name: str = "tiny", batch: int | None = None, *, exits: bool = False) -> Path:
    """Write the package; `batch` fixes the graph's batch axis.

    With `exits` an early exit gives three times the logits wherever one of those is at least 2.25: at levels under 64
    and from 192 on.
    """
    (folder / "goldens").mkdir(parents=True)
    (folder / "card.toml").write_text(CARD.format(name=name) + EXITS * exits)
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
    graph = helper.make_graph(nodes, "tiny", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    (folder / "predict.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    rows = []
    for level in (10, 240):
        (folder / "goldens" / f"{level}.png").write_bytes(plain(level))
        rows.append({"file": f"{level}.png", "logits": [float(value) for value in logits_of_plain(level)]})
    goldens = {"reference": "NumPy", "tolerance": 0.5 if exits else 1e-3, "goldens": rows}
    goldens |= {"variant": "early-exit"} if exits else {}
    (folder / "goldens" / "goldens.json").write_text(json.dumps(goldens))
    return folder
