"""A PyTorch network as an ONNX graph whose weights lie in safetensors files beside it. Needs the `torch` extra."""

import json
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from torch import Tensor, nn

from errors import StoreError

MAX_BYTES_INSIDE = 2**20
"""A graph may hold so many bytes of constants itself; more means that weights are missing from their file."""


def trace_to_onnx(
    network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], *, fixed_batch: bool = False
) -> onnx.ModelProto:
    """Return the network as an ONNX model that holds nothing of this machine, such as paths.

    Args:
        network: in evaluation mode.
        inputs: an example of each input, by its name in the graph.
        outputs: the names of the outputs in the graph.
        fixed_batch: whether the graph takes only batches of the examples' size; otherwise the batch is dynamic.

    Raises:
        StoreError: PyTorch's exporter returned nothing.
    """
    program = torch.onnx.export(
        network,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=None if fixed_batch else tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
    )
    if program is None:
        raise StoreError("the ONNX exporter gave nothing")
    # Weights stay in their file as PyTorch wrote them, so only other constants are folded here; ONNX Runtime folds and
    # fuses weights when it loads them.
    fold_constants(program.model, should_fold=_should_fold)
    remove_unused_nodes(program.model)
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "traced.onnx", external_data=False)
        model = onnx.load(Path(folder) / "traced.onnx")
    model.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        _remove_origins(part)
    if not fixed_batch:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _remove_origins(part: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Remove the exporter's notes on where nodes and values come from, and shapes that ONNX Runtime infers itself."""
    del part.metadata_props[:]
    del part.value_info[:]
    values = (*part.input, *part.output, *part.initializer) if isinstance(part, onnx.GraphProto) else ()
    for element in (*part.node, *values):
        element.doc_string = ""
        del element.metadata_props[:]
    for node in part.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _remove_origins(attribute.g)


def _should_fold(node: Any) -> bool | None:
    """Return False if a weight is among a node's inputs, and None to leave the decision to the constant folder."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


def use_external_weights(model: onnx.ModelProto, *files: Path) -> None:
    """Replace the weights inside an ONNX model by references into safetensors files.

    Weights that a file holds as fp16 are cast to fp32 in the graph. Initializers that no node reads any more are
    removed.

    Raises:
        StoreError: a weight has another shape than in its file, or weights are in no file.
    """
    stored = {name: (file.name, tensor) for file in files for name, tensor in _stored_tensors(file)}
    casts = []
    for initializer in model.graph.initializer:
        name = initializer.name
        file_name, tensor = stored.get(name, ("", None))
        if tensor is None or tensor.dtype not in ("F16", "F32"):
            continue
        if list(initializer.dims) != tensor.shape:
            raise StoreError(f"{name}: the exporter changed its shape to {list(initializer.dims)}")
        initializer.CopyFrom(TensorProto(name=name, dims=tensor.shape, data_type=TensorProto.FLOAT))
        if tensor.dtype == "F16":
            initializer.name, initializer.data_type = f"{name}.fp16", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], name=f"fp32 {name}", to=TensorProto.FLOAT))
        initializer.data_location = TensorProto.EXTERNAL
        for key, value in (("location", file_name), ("offset", tensor.offset), ("length", tensor.length)):
            initializer.external_data.add(key=key, value=str(value))
    nodes = [*casts, *model.graph.node]
    inputs, bytes_inside = set(_node_inputs(model.graph)), 0
    for initializer in [tensor for tensor in model.graph.initializer if not tensor.external_data]:
        if initializer.name in inputs:
            bytes_inside += numpy_helper.to_array(initializer).nbytes
        else:
            model.graph.initializer.remove(initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if bytes_inside > MAX_BYTES_INSIDE:
        raise StoreError(f"the graph holds {bytes_inside:,} bytes of weights that are not in {files[0].name}")


class _StoredTensor(NamedTuple):
    """A tensor in a safetensors file: `length` bytes from `offset`."""

    dtype: str
    shape: list[int]
    offset: int
    length: int


def _stored_tensors(file: Path) -> Iterator[tuple[str, _StoredTensor]]:
    """Yield the tensors of a safetensors file by name, read from its header: a length in 8 bytes, then JSON."""
    with file.open("rb") as stream:
        (header_length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, dict[str, Any]] = json.loads(stream.read(header_length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, _StoredTensor(entry["dtype"], entry["shape"], 8 + header_length + begin, end - begin)


def _node_inputs(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that the nodes of a graph read, including the nodes of its branches."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _node_inputs(attribute.g)
