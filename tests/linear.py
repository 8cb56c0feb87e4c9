"""A regressor of rows whose Shapley values everybody knows: weight × distance from the background's mean."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.background import write_background

CARD = """
name = "linear"
title = "Linear"
description = "A weighted sum, and its negative."
task = "tabular-regression"
architecture = "onnx"
licence = "Apache-2.0"
data = "none"
outputs = [{ name = "sum", unit = "kg" }, { name = "negative" }]

[input]
kind = "row"
"""
FEATURE = '\n[[input.features]]\nname = "x{place}"\nunit = "m"\nexample = {place}\n'


def weights_of(features: int) -> npt.NDArray[np.float32]:
    """The weights of the sum, shape (F,)."""
    return np.asarray(np.random.default_rng(features).normal(0, 1, features), np.float32)


def rows_of(features: int, count: int) -> npt.NDArray[np.float32]:
    """The rows of the background, shape (count, F)."""
    return np.asarray(np.random.default_rng(count).normal(0, 3, (count, features)), np.float32)


def linear_package(folder: Path, features: int, background: int = 8) -> Path:
    """Write the package of the regressor; with `background` = 0 it has none."""
    (folder / "goldens").mkdir(parents=True)
    (folder / "card.toml").write_text(CARD + "".join(FEATURE.format(place=place) for place in range(features)))
    weights = np.stack([weights_of(features), -weights_of(features)], axis=1)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["row", "weights"], ["values"])],
        "linear",
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["N", features])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    (folder / "predict.onnx").write_bytes(model.SerializeToString())
    names = [f"x{place}" for place in range(features)]
    golden = dict(zip(names, range(features), strict=True))
    (folder / "goldens" / "row.json").write_text(json.dumps(golden))
    row = {"file": "row.json", "logits": (np.arange(features) @ weights).tolist()}
    index = {"reference": "NumPy", "tolerance": 1e-3, "goldens": [row]}
    (folder / "goldens" / "goldens.json").write_text(json.dumps(index))
    if background:
        rows = [dict(zip(names, values, strict=True)) for values in rows_of(features, background).tolist()]
        write_background(folder, rows, "normal numbers")
    return folder
