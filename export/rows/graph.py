"""From a converter's graph to one that serving runs: rows (N, features) float32 in, logits or values out."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from errors import StoreError
from export.rows.model import FeatureFacts, RowModel
from preprocessing.row_spec import MISSING_CATEGORY, OTHER_CATEGORY

SMALLEST_PROBABILITY = 1e-30
"""What a probability of 0 counts as, since its logarithm has to be finite."""
ROWS, LOGITS, VALUES = "rows", "logits", "values"
_OWN = "vitrine."
"""How the names of the nodes begin that are added here."""
_OPSET = 13


def serving_graph(model: RowModel) -> onnx.ModelProto:
    """Convert a model and put before its graph what `preprocessing` gives, and behind it what `postprocessing` takes.

    A category arrives as its place, and the graph looks its text or number up: `OTHER_CATEGORY` and `MISSING_CATEGORY`
    count from the end of the table. Behind a classifier stands the logarithm of its probabilities; its softmax is they.

    Raises:
        StoreError: the converter gives no such outputs.
    """
    converted = model.convert()
    graph = converted.graph
    added = _input_nodes(graph, model.features)
    output = _output_name(graph, is_classifier=bool(model.labels))
    if model.labels:
        graph.initializer.append(numpy_helper.from_array(np.array(SMALLEST_PROBABILITY, np.float32), f"{_OWN}least"))
        behind = [
            helper.make_node("Max", [output, f"{_OWN}least"], [f"{_OWN}probabilities"]),
            helper.make_node("Log", [f"{_OWN}probabilities"], [LOGITS]),
        ]
        name, columns = LOGITS, len(model.labels)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([-1, model.outputs], np.int64), f"{_OWN}shape"))
        behind = [helper.make_node("Reshape", [output, f"{_OWN}shape"], [VALUES])]
        name, columns = VALUES, model.outputs
    nodes = _needed_nodes([*added, *graph.node, *behind], name)
    names = {tensor for node in nodes for tensor in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in names]
    whole = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, ["N", len(model.features)])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", columns])],
        initializers,
    )
    opsets = {opset.domain: opset.version for opset in converted.opset_import}
    opsets[""] = max(opsets.get("", _OPSET), _OPSET)
    return helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=converted.ir_version,
        producer_name="vitrine",
    )


def _input_nodes(graph: onnx.GraphProto, features: Sequence[FeatureFacts]) -> list[onnx.NodeProto]:
    """Return nodes that make the inputs of a converter's graph of one tensor `rows`."""
    names = [value.name for value in graph.input]
    if len(names) == 1 and not any(feature.categories for feature in features):
        return [helper.make_node("Identity", [ROWS], names)] if names != [ROWS] else []
    nodes = []
    for place, feature in enumerate(features):
        nodes += _column_nodes(graph, place, feature)
    columns = [f"column{place}" for place in range(len(features))]
    if set(names) <= set(columns):
        return nodes
    (matrix,) = names  # of numbers, among them categories that are numbers
    for node in graph.node:
        node.input[:] = [f"{_OWN}{ROWS}" if name == matrix else name for name in node.input]
    return [*nodes, helper.make_node("Concat", columns, [f"{_OWN}{ROWS}"], axis=1)]


def _column_nodes(graph: onnx.GraphProto, place: int, feature: FeatureFacts) -> list[onnx.NodeProto]:
    """Return nodes that take one feature, shape (N, 1), out of the rows."""
    column, index = f"column{place}", f"{_OWN}index{place}"
    graph.initializer.append(numpy_helper.from_array(np.array([place], np.int64), index))
    if feature.categories is None:
        return [helper.make_node("Gather", [ROWS, index], [column], axis=1)]
    table, code = f"{_OWN}table{place}", f"{_OWN}code{place}"
    graph.initializer.append(_table(feature, table))
    return [
        helper.make_node("Gather", [ROWS, index], [code], axis=1),
        helper.make_node("Cast", [code], [f"{code} whole"], to=TensorProto.INT64),
        helper.make_node("Gather", [table, f"{code} whole"], [column], axis=0),
    ]


def _table(feature: FeatureFacts, name: str) -> onnx.TensorProto:
    """Return the categories of a feature, and behind them what stands for a missing value and for any other."""
    categories = list(feature.categories or ())
    ends = {MISSING_CATEGORY: feature.null, OTHER_CATEGORY: _no_category(categories)}
    values = [*categories, *(ends[place] for place in sorted(ends))]
    if feature.is_text:
        return numpy_helper.from_array(np.array([str(value) for value in values], object), name)
    return numpy_helper.from_array(np.array([float(value) for value in values], np.float32), name)


def _no_category(categories: Sequence[object]) -> object:
    """Return a text that is none of the categories; among numbers, NaN."""
    if not isinstance(categories[0], str):
        return float("nan")
    text = "other"
    while text in categories:
        text += "_"
    return text


def _output_name(graph: onnx.GraphProto, *, is_classifier: bool) -> str:
    names = [value.name for value in graph.output]
    if is_classifier and len(names) > 1:
        names = [name for name in names if "prob" in name.lower()]
    if len(names) != 1:
        raise StoreError(f"The converter's graph has outputs {', '.join(value.name for value in graph.output)}.")
    return str(names[0])


def _needed_nodes(nodes: Sequence[onnx.NodeProto], output: str) -> list[onnx.NodeProto]:
    """Return the nodes that an output depends on, in order; the converter's label is none of ours."""
    needed, kept = {output}, list[onnx.NodeProto]()
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
