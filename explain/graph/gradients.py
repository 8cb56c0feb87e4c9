"""The gradient of a graph's end, written as nodes: each operator's rule leads back from its output to its inputs.

Every rule is exact. What has no rule is refused by name: a map that rests on an approximation could not be told from
one that does not.
"""

from collections.abc import Sequence

import onnx

from errors import NotCompilable
from explain.graph import arithmetic, pooling, reshaping
from explain.graph.elementwise import DERIVATIVES, Elementwise
from explain.graph.nodes import Facts, Writer, title
from explain.graph.steps import Gradients, Rule, Step

RULES: dict[str, Rule] = {
    "Add": arithmetic.add,
    "AveragePool": pooling.average_pool,
    "BatchNormalization": arithmetic.batch_norm,
    "Cast": reshaping.cast,
    "CastLike": reshaping.cast,
    "Concat": reshaping.concat,
    "Conv": pooling.convolution,
    "Div": arithmetic.div,
    "Dropout": reshaping.dropout,
    "Expand": arithmetic.expand,
    "Flatten": reshaping.reshaped,
    "Gather": reshaping.gather,
    "Gemm": arithmetic.gemm,
    "GlobalAveragePool": pooling.mean_of_all,
    "GlobalMaxPool": pooling.global_max_pool,
    "Identity": reshaping.same,
    "LayerNormalization": arithmetic.layer_norm,
    "MatMul": arithmetic.matmul,
    "MaxPool": pooling.max_pool,
    "Mul": arithmetic.mul,
    "Pow": arithmetic.power,
    "ReduceMax": pooling.reduce_max,
    "ReduceMean": pooling.reduce_mean,
    "ReduceSum": pooling.reduce_sum,
    "Reshape": reshaping.reshaped,
    "Slice": reshaping.cut,
    "Softmax": arithmetic.softmax,
    "Split": reshaping.split,
    "Squeeze": reshaping.reshaped,
    "Sub": arithmetic.sub,
    "Sum": arithmetic.add,
    "Transpose": reshaping.transpose,
    "Unsqueeze": reshaping.reshaped,
}
"""Operator → how its gradient leads back from its output to its inputs."""


def check_differentiable(nodes: Sequence[onnx.NodeProto]) -> None:
    """Raise unless there is a rule for each node.

    Raises:
        NotCompilable: there is none for one of them; the message names it.
    """
    for node in nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in RULES.keys() | DERIVATIVES.keys():
            raise NotCompilable(f"there is no exact gradient for {title(node)}")


def gradient_of(
    layer: str, output: str, seed: str, nodes: Sequence[onnx.NodeProto], facts: Facts, write: Writer
) -> str:
    """Write the gradient of the sum of `seed` times an output with respect to a layer, and return its name.

    Args:
        layer: the value to differentiate by.
        output: the value to differentiate, such as the logits.
        seed: a value of the output's shape.
        nodes: every node on a path from the layer to the output, in the graph's order.
        facts: shapes of the values that the nodes read and write.
        write: writes the nodes.

    Raises:
        NotCompilable: a node has no exact gradient; the message names it.
    """
    check_differentiable(nodes)
    varying = {layer}
    for node in nodes:
        if varying.intersection(node.input):
            varying.update(node.output)
    arrived: dict[str, list[str]] = {output: [seed]}
    for node in reversed(nodes):
        gradients_of_outputs = {
            place: _sum(parts, write) for place, name in enumerate(node.output) if (parts := arrived.pop(name, None))
        }
        if not gradients_of_outputs:
            continue
        step = Step(node, gradients_of_outputs, facts, write, varying)
        if (derivative := DERIVATIVES.get(node.op_type)) is not None:
            gradients: Gradients = {0: write("Mul", step.gradient, derivative(Elementwise(node, facts, write)))}
        else:
            gradients = RULES[node.op_type](step)
        for place, gradient in gradients.items():
            if step.varies(place):
                arrived.setdefault(node.input[place], []).append(gradient)
    return _sum(arrived[layer], write)


def _sum(parts: Sequence[str], write: Writer) -> str:
    return parts[0] if len(parts) == 1 else write("Sum", *parts)
