"""Graphs of an operator's own, and the command that adds them."""

from pathlib import Path

import numpy as np
import onnx
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from cli.main import main

CLASSES = 30


def graph_file(
    path: Path, *, batch: int | str = "N", size: int | str = 224, classes: int = CLASSES, rank: int = 2, kind: int = 1
) -> np.ndarray:
    """Write a graph with the names of the model zoo's ResNet; return the matrix that it multiplies channel means by."""
    weight = np.random.default_rng(5).normal(size=(3, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["data"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["float"], ["pooled"]),
    ]
    if rank == 2:
        nodes += [helper.make_node("Flatten", ["pooled"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["out"])]
    else:
        nodes += [helper.make_node("Identity", ["pooled"], ["out"])]
    data = helper.make_tensor_value_info("data", kind, [batch, 3, size, size])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, classes] if rank == 2 else [batch, 3, 1, 1])
    graph = helper.make_graph(nodes, "zoo", [data], [out], [numpy_helper.from_array(weight, "w")] if rank == 2 else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return weight


def labels_file(path: Path, count: int = CLASSES) -> Path:
    path.write_text("\n".join(["crane", "tench, Tinca tinca", "crane", *map(str, range(count - 3))]) + "\n\n")
    return path


def run_add(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["models", "add", *map(str, arguments)])
