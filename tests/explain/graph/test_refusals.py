"""What a rule does not handle is refused by the name of its node: no attribute and no input is passed over."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from errors import NotCompilable
from explain.graph.maps import explain_graph

FLOAT = np.float32


def graph_with(nodes: list[onnx.NodeProto], constants: dict[str, Any], *, opset: int = 17) -> onnx.ModelProto:
    """Return a graph of a feature map `map` (N, 2, 4, 6), nodes that make `end` (N, 2, …) of it, and their sum."""
    values = {"kernel": np.ones((2, 3, 1, 1), FLOAT), "axes": np.array([2, 3]), **constants}
    head = [helper.make_node("Conv", ["picture", "kernel"], ["map"])]
    tail = [helper.make_node("ReduceSum", ["end", "axes"], ["logits"], keepdims=0)]
    graph = helper.make_graph(
        [*head, *nodes, *tail],
        "small",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["n", 3, 4, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(operator: str, *inputs: str, outputs: tuple[str, ...] = ("end",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), list(outputs), name="culprit", **attributes)


PER_CHANNEL = np.ones(2, FLOAT)
REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "max pooling that pads by itself": (
        [node("MaxPool", "map", kernel_shape=[4, 6], auto_pad="SAME_UPPER")],
        {},
        "pools parts of the map",
    ),
    "average pooling with fewer cells at the edge": (
        [node("AveragePool", "map", kernel_shape=[3, 3], strides=[3, 3], ceil_mode=1)],
        {},
        "averages over fewer cells",
    ),
    "average pooling that leaves padding out": (
        [node("AveragePool", "map", kernel_shape=[3, 3], pads=[1, 1, 1, 1])],
        {},
        "averages over fewer cells",
    ),
    "a convolution that pads by itself": (
        [node("Conv", "map", "k", auto_pad="SAME_LOWER")],
        {"k": np.ones((2, 2, 3, 3), FLOAT)},
        "pads by itself",
    ),
    "a kernel that depends on the picture": (
        [
            helper.make_node("ReduceMean", ["map"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Concat", ["mean", "mean"], ["own"], axis=0),
            node("Conv", "map", "own"),
        ],
        {},
        "depends on the picture",
    ),
    "a batch norm of computed numbers": (
        [
            helper.make_node("ReduceMean", ["map"], ["scale"], axes=[0, 2, 3], keepdims=0),
            node("BatchNormalization", "map", "scale", "zero", "zero", "one"),
        ],
        {"zero": 0 * PER_CHANNEL, "one": PER_CHANNEL},
        "depends on the picture",
    ),
    "the mean that a layer norm gives too": (
        [
            helper.make_node("LayerNormalization", ["map", "six"], ["normed", "mean"], axis=-1, name="culprit"),
            helper.make_node("Add", ["normed", "mean"], ["end"]),
        ],
        {"six": np.ones(6, FLOAT)},
        "several outputs",
    ),
    "a slice that leaves numbers out in between": (
        [node("Slice", "map", "start", "stop", "axis", "step")],
        {"start": [0], "stop": [6], "axis": [3], "step": [2]},
        "leaves numbers out",
    ),
    "several entries of an axis": ([node("Gather", "map", "which", axis=2)], {"which": [0, 2]}, "several entries"),
    "a power that is computed": ([node("Pow", "map", "map")], {}, "raises to a power"),
    "numbers that are rounded": (
        [
            helper.make_node("Cast", ["map"], ["whole"], to=TensorProto.INT32, name="culprit"),
            helper.make_node("Cast", ["whole"], ["end"], to=TensorProto.FLOAT),
        ],
        {},
        "rounds numbers",
    ),
    "an operator without a rule": ([node("Round", "map")], {}, "no exact gradient"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_rule_does_not_handle_is_refused(name: str) -> None:
    nodes, constants, message = REFUSED[name]
    picture = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(FLOAT)
    with pytest.raises(NotCompilable, match=message) as error:
        explain_graph(graph_with(nodes, constants), picture, "map")
    assert "culprit" in str(error.value) or name == "numbers that are rounded"
