"""The explain graph of an ONNX graph: the prediction, the gradient of its end, and the maps of every CAM method."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, compose, helper, inliner, version_converter

from errors import NotCompilable
from explain.base import METHOD_NAMES, NO_CONTRAST, PREDICTED, Float32Array
from explain.graph.gradients import check_differentiable, gradient_of
from explain.graph.layers import Layer, last_layers, spatial_layers
from explain.graph.nodes import PREFIX, Facts, Writer, read_values
from explain.graph.paths import Paths, paths

OPSET = 13
"""The oldest version of ONNX's operators that the gradient is written in; older graphs are converted to it."""
EPSILON = 1e-6
"""Keeps Grad-CAM++ from dividing by zero; the value of `explain.methods.EPSILON`, which needs PyTorch."""


class ExplainGraph(NamedTuple):
    """A graph with inputs `image`, `target` and `contrast`, and outputs `logits` and one map for each method.

    Attributes:
        model: the graph, with its weights inside.
        layer: the feature map, as the graph that is explained calls it.
        gradient: what the model calls the gradient of the feature map, which has its shape.
        map_size: height and width of the maps.
    """

    model: onnx.ModelProto
    layer: str
    gradient: str
    map_size: tuple[int, int]

    @property
    def activations(self) -> str:
        """What the model calls the feature map."""
        return f"{PREFIX}{self.layer}"


def explain_graph(model: onnx.ModelProto, example: Float32Array, layer: str | None = None) -> ExplainGraph:
    """Write the explain graph of a classifier.

    Args:
        model: has one input and an output (N, K) `logits`, or one whose name does not matter; weights are inside.
        example: a batch of inputs (N, …) as the graph takes them: of two items, or of one where its batch is fixed.
        layer: the feature map to explain at; by default the last one that everything passes through, and of tokens
            the last on which the logits depend.

    Raises:
        NotCompilable: there is no such layer, or no exact gradient for a node after it; the message says which.
    """
    model = _prepared(model)
    graph = model.graph
    image, logits = graph.input[0].name, _logits(graph)
    facts, route = Facts(graph, image), paths(graph, image, logits)
    facts.learn(computed(model, [*route.cuts, logits], {image: example}))
    for candidate in _candidates(route, facts, layer):
        built = _explained_at(candidate, model, logits, example, facts)
        if candidate.tokens_before is None or _depends_on(candidate, built, example):
            return built
    raise NotCompilable("its logits depend on none of the tokens that are cells of a map")


def _explained_at(
    layer: Layer, network: onnx.ModelProto, logits: str, example: Float32Array, facts: Facts
) -> ExplainGraph:
    """Write the explain graph at one layer of a graph whose names have `PREFIX` before them."""
    model = onnx.ModelProto()
    model.CopyFrom(network)
    image = model.graph.input[0].name
    tail = paths(model.graph, layer.name, logits)
    check_differentiable(tail.nodes)
    names = {name for node in tail.nodes for name in (*read_values(node), *node.output)} - facts.constants.keys()
    values = computed(model, sorted(filter(None, names)), {image: example})
    if any(value.dtype in (np.float16, np.float64) for value in values.values()):
        raise NotCompilable("it does not compute in float32 after its last feature map; add the graph in float32")
    facts.learn(values)
    if (of_shapes := facts.depend_on_shapes(values)) and len(example) > 1:
        facts.learn_fixed(values, computed(model, of_shapes, {image: np.concatenate([example, example])}))
    elif of_shapes:
        facts.learn_fixed(values, {name: values[name] for name in of_shapes})  # the batch is fixed too
    write, classes = Writer(), facts.shapes[logits][1]
    gradient = gradient_of(layer.name, logits, _score_weights(logits, classes, write), tail.nodes, facts, write)
    _write_maps(layer, gradient, write)
    _finish(model, image, logits, classes, write)
    return ExplainGraph(model, layer.name.removeprefix(PREFIX), gradient, layer.size)


def _depends_on(layer: Layer, built: ExplainGraph, example: Float32Array) -> bool:
    """Return whether the logits of an example depend on the tokens that are cells of a map."""
    inputs = {"image": example} | explained_classes([PREDICTED] * len(example))
    gradient = computed(built.model, [built.gradient], inputs)[built.gradient]
    start = layer.tokens_before or 0
    return bool(np.any(gradient[:, start : start + layer.size[0] * layer.size[1]]))


def explained_classes(targets: Sequence[int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the inputs of an explain graph that ask for one class of each item, or `PREDICTED`, by itself."""
    return {"target": np.array(targets, np.int64), "contrast": np.full(len(targets), NO_CONTRAST, np.int64)}


def computed(model: onnx.ModelProto, names: Sequence[str], inputs: dict[str, Any]) -> dict[str, Any]:
    """Compute values of a graph by their names.

    Raises:
        NotCompilable: ONNX Runtime cannot compute them.
    """
    try:
        return dict(zip(names, open_at(model, names).run(list(names), inputs), strict=True))
    except Exception as error:
        line = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise NotCompilable(f"the values inside the graph cannot be computed ({line})") from error


def open_at(model: onnx.ModelProto, names: Sequence[str]) -> ort.InferenceSession:
    """Load a graph so that values inside it can be asked for by their names."""
    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    present = {output.name for output in asked.graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(asked.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in operators that the gradient can be written with, whose names have `PREFIX` before them."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise NotCompilable(
                f"its operators are of version {version}, which cannot be converted to {OPSET}; export it anew"
            ) from error
    model = compose.add_prefix(model, PREFIX)
    held = {tensor.name for tensor in model.graph.initializer}
    for entry in [entry for entry in model.graph.input if entry.name in held]:
        model.graph.input.remove(entry)  # old graphs list their weights so, which keeps them from being constants
    model.ir_version = max(model.ir_version, 7)
    return model


def _logits(graph: onnx.GraphProto) -> str:
    names = [output.name for output in graph.output]
    return f"{PREFIX}logits" if f"{PREFIX}logits" in names else names[0]


def _candidates(route: Paths, facts: Facts, layer: str | None) -> Sequence[Layer]:
    if layer is None:
        return last_layers(route, facts)
    layers = {candidate.name.removeprefix(PREFIX): candidate for candidate in spatial_layers(route, facts)}
    if layer not in layers:
        raise NotCompilable(
            f"it has no feature map {layer!r} that everything passes through; it has: {', '.join(list(layers)[-12:])}"
        )
    return [layers[layer]]


def _score_weights(logits: str, classes: int, write: Writer) -> str:
    """Write 1 for the class that each item is explained for, -1 for the one that it is set against, and 0 for others.

    The first is its target or the most probable class; the other is its contrast, or none.
    """
    most_probable = write("ArgMax", logits, axis=1, keepdims=0)
    zero, depth = write.constant(0, np.int64), write.constant(classes, np.int64)
    explained = write("Where", write("Less", "target", zero), most_probable, "target")
    against = write("Where", write("Less", "contrast", zero), depth, "contrast")  # beyond all classes: a row of zeros
    values = write.constant([0, 1], np.float32)
    chosen, opposed = (write("OneHot", index, depth, values, axis=-1) for index in (explained, against))
    return write("Sub", chosen, opposed)


def _write_maps(layer: Layer, gradient: str, write: Writer) -> None:
    """Write the map of each method, as `explain.methods` defines them."""
    space, channels = ((1, 2), 3) if layer.channels_last else ((2, 3), 1)
    activations, number = layer.name, write.number
    if layer.tokens_before is not None:
        activations, gradient = (_map_of_tokens(layer, value, write) for value in (activations, gradient))
    positive = write("Relu", gradient)
    squared = write("Mul", gradient, gradient)
    cubed = write("Mul", write.sum(activations, space), write("Mul", squared, gradient))
    denominator = write("Add", write("Add", write("Mul", squared, number(2)), cubed), number(EPSILON))
    is_zero = write("Equal", gradient, number(0))
    alpha = write("Where", is_zero, number(0), write("Div", squared, denominator))
    weights = {
        "gradcam": write("Div", write.sum(gradient, space), number(layer.size[0] * layer.size[1])),
        "gradcam++": write.sum(write("Mul", positive, alpha), space),
        "layercam": positive,
        "hirescam": gradient,
    }
    for method in METHOD_NAMES:
        weighted = write.sum(write("Mul", weights[method], activations), [channels], keepdims=False)
        write("Relu", weighted, name=method)


def _map_of_tokens(layer: Layer, tokens: str, write: Writer) -> str:
    """Write the map (N, h, w, C) that tokens (N, T, C) hold."""
    height, width = layer.size
    start = layer.tokens_before or 0
    ends = [write.constant([number], np.int64) for number in (start, start + height * width, 1)]
    return write("Reshape", write("Slice", tokens, *ends), write.constant([0, height, width, -1], np.int64))


def _finish(model: onnx.ModelProto, image: str, logits: str, classes: int, write: Writer) -> None:
    """Put the written nodes into the graph, and give it the inputs and outputs of an explain graph."""
    graph = model.graph
    first, own = Writer(), list(graph.node)
    first("Identity", "image", name=image)
    write("Identity", logits, name="logits")
    picture = onnx.ValueInfoProto()
    picture.CopyFrom(graph.input[0])
    picture.name = "image"
    batch = picture.type.tensor_type.shape.dim[0]
    items: int | str = batch.dim_value if batch.HasField("dim_value") else "batch"
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [items, classes])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [items, None, None]) for name in METHOD_NAMES]
    del graph.input[:], graph.output[:], graph.node[:], graph.value_info[:]
    classes_of = [helper.make_tensor_value_info(name, TensorProto.INT64, [items]) for name in ("target", "contrast")]
    graph.input.extend([picture, *classes_of])
    graph.output.extend(outputs)
    graph.node.extend([*first.nodes, *own, *write.nodes])
    graph.initializer.extend(write.initializers)
