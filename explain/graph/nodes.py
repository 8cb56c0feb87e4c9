"""Reading the nodes of an ONNX graph, and writing new ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
WITHOUT_GRADIENT = ("Shape", "Size")
"""Operators whose output does not change with the numbers in their input."""
PREFIX = "network/"
"""Stands before the names of the graph that is explained, so that none of them can be `image` or `gradcam`."""


class Facts:
    """What is known of the values of a graph.

    Attributes:
        shapes: of constants, and of values that were computed on a batch of examples, by their names.
        dtypes: of values that were computed on a batch of examples, by their names.
        constants: initializers, the outputs of `Constant` nodes, and what was computed of them, by their names.
    """

    def __init__(self, graph: onnx.GraphProto, image: str) -> None:
        self._by_input, self._by_numbers = {image}, {image}
        for node in graph.node:
            if self._by_input.intersection(read_values(node)):
                self._by_input.update(node.output)
            if node.op_type not in WITHOUT_GRADIENT and self._by_numbers.intersection(read_values(node)):
                self._by_numbers.update(node.output)
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.shapes: dict[str, Shape] = {}
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and (value := _constant_value(node)) is not None:
                self.constants[node.output[0]] = value
        self.shapes |= {name: tuple(tensor.dims) for name, tensor in self.constants.items()}

    def learn(self, values: Mapping[str, Array]) -> None:
        """Take in what computed values are like, and those that no input changes as constants."""
        for name, value in values.items():
            self.shapes[name], self.dtypes[name] = value.shape, value.dtype
            if name not in self._by_input:
                self.constants[name] = numpy_helper.from_array(value)

    def depend_on_shapes(self, names: Iterable[str]) -> list[str]:
        """Return which values depend on the shape of the graph's input, and not on the numbers in it."""
        return sorted(name for name in names if name in self._by_input and name not in self._by_numbers)

    def learn_fixed(self, values: Mapping[str, Array], others: Mapping[str, Array]) -> None:
        """Take those values as constants that were the same for batches of different sizes."""
        for name, other in others.items():
            if np.array_equal(values[name], other):
                self.constants[name] = numpy_helper.from_array(other)

    def constant(self, name: str) -> Array | None:
        """Return the value of a constant; None where it depends on the picture or the batch, or there is none."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))


class Writer:
    """Writes nodes and their constants, whose names no other value has."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, Shape, bytes], str] = {}

    def __call__(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Write one node with one output, and return the output's name."""
        output = name or f"maps/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=f"maps/{output}", **attributes))
        return output

    def constant(self, value: Any, dtype: npt.DTypeLike) -> str:
        """Return the name of a constant, which is written once."""
        array = np.asarray(value, dtype)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = f"maps/constant_{len(self._constants)}"
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def number(self, value: float) -> str:
        """Return the name of a float32 constant."""
        return self.constant(value, np.float32)

    def sum(self, value: str, axes: Sequence[int], *, keepdims: bool = True) -> str:
        """Write the sum over axes."""
        return self("ReduceSum", value, self.constant(list(axes), np.int64), keepdims=int(keepdims))


def read_values(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, including those that its branches read."""
    yield from filter(None, node.input)
    for entry in node.attribute:
        for branch in (entry.g, *entry.graphs):
            for inner in branch.node:
                yield from read_values(inner)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute of a node, or a default where the node has none."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the value of a `Constant` node; None where it is a string or sparse."""
    tensor: onnx.TensorProto | None = attribute(node, "value")
    if tensor is not None:
        return tensor
    for key, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if (value := attribute(node, key)) is not None:
            return numpy_helper.from_array(np.asarray(value, dtype))
    value = attribute(node, "value_floats")
    return None if value is None else numpy_helper.from_array(np.asarray(value, np.float32))


def title(node: onnx.NodeProto) -> str:
    """Return what messages call a node."""
    return f"the node {(node.name or node.output[0]).removeprefix(PREFIX)!r} ({node.op_type})"
