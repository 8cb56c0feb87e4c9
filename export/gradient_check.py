"""A gradient that was written into a graph, against what the graph does when its feature map is moved."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from backends.base import Batch
from errors import NotCompilable
from explain.base import METHOD_NAMES, PREDICTED
from explain.graph.maps import ExplainGraph, explained_classes, open_at

STEPS = (1e-2, 2e-3)
"""How far the feature map is moved, as a share of its length. The smaller step crosses fewer bends of a ReLU, the
larger one stands out from float32's rounding; a wrong gradient differs from both."""
SHIFTED, SHIFT = "shifted", "shift"


def gradient_deviation(built: ExplainGraph, items: Batch) -> float:
    """Return how far a gradient is from central finite differences of the logit of the most probable class.

    The feature map A is moved along g/|g| + A/|A|, where g is its gradient: the first makes the change large, the
    second shows a part of g that is missing.

    Args:
        built: the explain graph.
        items: inputs, shape (N, …), float32; each is checked by itself.

    Returns:
        The largest difference between both slopes, as a share of the steepest that a gradient of that length can have.

    Raises:
        NotCompilable: a logit or a map is not finite, or not one item has a gradient that could be checked.
    """
    names = ["logits", built.activations, built.gradient, *METHOD_NAMES]
    whole, movable = open_at(built.model, names), open_at(_movable(built), ["logits"])
    deviations = list[float]()
    for place in range(len(items)):
        image = items[place : place + 1]
        request = {"image": image} | explained_classes([PREDICTED])
        values = whole.run(names, request)
        if not all(np.isfinite(value).all() for value in values):
            raise NotCompilable("its maps are not finite numbers for a golden")
        logits, activations, gradient = (np.asarray(value, np.float64) for value in values[:3])
        length, steepest = float(np.linalg.norm(activations)), float(np.linalg.norm(gradient))
        if length == 0 or steepest == 0:
            continue  # nothing that could be moved, or nothing that is seen of it
        direction = gradient / steepest + activations / length
        direction /= np.linalg.norm(direction)
        expected, explained = float((gradient * direction).sum()), logits[0].argmax()
        differences = []
        for step in STEPS:
            shifts = [(sign * step * length * direction).astype(np.float32) for sign in (1, -1)]
            above, below = (movable.run(["logits"], request | {SHIFT: shift})[0][0, explained] for shift in shifts)
            differences.append(abs((float(above) - float(below)) / (2 * step * length) - expected) / steepest)
        deviations.append(min(differences))
    if not deviations:
        raise NotCompilable("its logits do not change with the feature map, for any golden that was tried")
    return float(np.max(deviations))  # which is NaN if one of them is


def _movable(built: ExplainGraph) -> onnx.ModelProto:
    """Return the graph with an input that is added to its feature map, and the logits alone as its output."""
    model = onnx.ModelProto()
    model.CopyFrom(built.model)
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for original in built.model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for place, name in enumerate(node.input):
            if name == built.activations:
                node.input[place] = SHIFTED
        nodes.append(node)
        if built.activations in node.output:
            nodes.append(helper.make_node("Add", [built.activations, SHIFT], [SHIFTED]))
    del graph.output[:], graph.node[:]
    logits = next(output for output in built.model.graph.output if output.name == "logits")
    graph.input.append(helper.make_tensor_value_info(SHIFT, TensorProto.FLOAT, None))
    graph.output.append(logits)
    graph.node.extend(nodes)
    return model
