"""A checkpoint and a card → a model's package: weights, ONNX graph, goldens. Needs PyTorch (the `torch` extra).

`python -m export.onnx kidney-stone --halve --weights runs/kidney-stone/best_model.pth` makes the package that ships.

One weights file serves both runtimes: the ONNX graph holds no weights of its own but points into
`weights.safetensors` by offset. Weights that ship are halved: matrices and kernels are fp16 on disk, vectors stay fp32,
and the graph casts back to fp32, which ONNX Runtime folds away when it loads.
"""

import json
import logging
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from safetensors.torch import save_file
from torch import Tensor, nn

from backends.onnx import OnnxBackend
from errors import StoreError, VitrineError
from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES, PREDICTED, Float32Array
from explain.compile import Explained, NotCompilable
from explain.onnx import OnnxExplainer
from export.parity import LIMIT, Parity, check, golden_batch, random_inputs, write
from models.card import ImageCard, read_card
from models.checkpoint import Checkpoint, Weights, check_facts, load_network, read_checkpoint, rounded
from models.goldens import Golden, golden_inputs, write_goldens
from models.package import EXPLAIN, GRAPH, WEIGHTS
from models.registry import package_of

logger = logging.getLogger("vitrine.export")


def export(
    card_file: Path,
    checkpoint: Checkpoint,
    images: Sequence[tuple[str, bytes]],
    package: Path,
    *,
    halve: bool = False,
) -> Parity:
    """Write a package's card, weights, graphs, goldens and parity report.

    Args:
        card_file: the card.toml; copied into the package.
        checkpoint: the weights, any float dtype.
        images: name and encoded bytes of each golden input.
        package: the folder to write into; made if it is not there.
        halve: round matrices and kernels to fp16, which halves the file; the reference is of the rounded ones then.

    Returns:
        What the parity gate measured of ONNX Runtime against PyTorch, on the goldens and on random inputs.

    Raises:
        StoreError: weights that do not fit, or a breach of the gate.
    """
    card = read_card(card_file)
    check_facts(card, checkpoint.facts)
    weights = {name: checkpoint.weights[name] for name in sorted(checkpoint.weights)}
    network = load_network(card, weights)
    if card.parameters is not None and card.parameters != (count := sum(each.numel() for each in network.parameters())):
        raise StoreError(f"{card.name}: the card says {card.parameters:,} parameters, its network has {count:,}.")
    kept = rounded(weights) if halve else _fp32(weights)
    if halve:
        network = load_network(card, kept)
    package.mkdir(parents=True, exist_ok=True)
    if (package / "card.toml") != card_file:
        (package / "card.toml").write_bytes(card_file.read_bytes())
    save_file(kept, package / WEIGHTS)
    (package / WEIGHTS).chmod(0o644)
    goldens = golden_batch(card, list(images))
    inputs = np.concatenate([goldens, random_inputs(card)])
    graph = traced(network, {card.input.kind: torch.zeros(2, *inputs.shape[1:])}, ["logits"])
    point_into(graph, package / WEIGHTS)
    (package / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))

    with torch.inference_mode():
        reference = network(torch.from_numpy(inputs)).numpy()
    named = f"PyTorch {torch.__version__.split('+')[0]}, fp32, CPU" + (", weights as rounded" if halve else "")
    rows = [Golden(name, data, row) for (name, data), row in zip(images, reference[: len(images)], strict=True)]
    write_goldens(package, rows, named)
    parity = check(card, inputs, reference, OnnxBackend(package / GRAPH), named=named, goldens=len(goldens))
    write(replace(parity, checkpoint=checkpoint.facts or None), package)
    if isinstance(card, ImageCard) and (why_not := export_explain(card, network, package, goldens)):
        logger.warning("%s cannot be explained without PyTorch: %s.", card.name, why_not)
    return parity


def _fp32(weights: Weights) -> Weights:
    """A copy of each, since a file cannot hold two that share their memory."""
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return {name: tensor.clone().contiguous() for name, tensor in floats.items()}


def export_explain(card: ImageCard, network: nn.Module, package: Path, tensors: Float32Array) -> str | None:
    """Write the explain graph of a card that names a layer, beside the weights it points into.

    Args:
        card: names the layer.
        network: with the weights that are in the package.
        package: the folder; an explain graph that lies there is replaced.
        tensors: (N, 3, h, w) float32 to compare with autograd on.

    Returns:
        None, or why there is no graph: then only a server with PyTorch can explain.

    Raises:
        StoreError: a map differs from autograd's by more than `LIMIT` of its maximum, or a logit.
    """
    (package / EXPLAIN).unlink(missing_ok=True)
    if card.explain is None:
        return "its card names no layer"
    try:
        module = Explained(network, card.explain.layer, card.input.size)
    except NotCompilable as error:
        return str(error)
    inputs = {"image": torch.zeros(2, 3, *card.input.size), "target": torch.tensor([PREDICTED, 0])}
    graph = traced(module, inputs, ["logits", *METHOD_NAMES])
    point_into(graph, package / WEIGHTS)
    (package / EXPLAIN).write_bytes(graph.SerializeToString(deterministic=True))
    targets = np.arange(len(tensors), dtype=np.int64) % (len(card.labels) + 1) + PREDICTED
    reference = AutogradExplainer(network, card.explain.layer).run(tensors, targets, frozenset(METHOD_NAMES))
    compiled = OnnxExplainer(package / EXPLAIN).run(tensors, targets, frozenset(METHOD_NAMES))
    away = {"logits": np.abs(compiled.logits - reference.logits).max() / max(1.0, np.abs(reference.logits).max())}
    for method, maps in reference.maps.items():
        away[method] = np.abs(compiled.maps[method] - maps).max() / max(float(maps.max()), 1e-12)
    for output, by in away.items():
        if not by <= LIMIT:
            raise StoreError(
                f"{card.name}: {output} of the explain graph differs from autograd by {by:.1e} of its maximum."
            )
    return None


def traced(
    network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], *, one_by_one: bool = False
) -> onnx.ModelProto:
    """The network as an ONNX model, without traces of this machine; batch dynamic, or fixed at 1."""
    program = torch.onnx.export(
        network,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=None if one_by_one else tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
    )
    if program is None:
        raise StoreError("the ONNX exporter gave nothing")
    # Fold what is constant, but nothing made of weights: they stay in their file as PyTorch wrote them, and ONNX
    # Runtime folds and fuses when it loads them.
    fold_constants(program.model, should_fold=_holds_no_weight)
    remove_unused_nodes(program.model)
    with tempfile.TemporaryDirectory() as folder:
        program.save(Path(folder) / "traced.onnx", external_data=False)
        model = onnx.load(Path(folder) / "traced.onnx")
    model.doc_string = ""
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        _forget(part)
    if not one_by_one:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _forget(part: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Remove what the exporter notes of where nodes and values come from, and shapes that ONNX Runtime works out."""
    del part.metadata_props[:]
    del part.value_info[:]
    values = (*part.input, *part.output, *part.initializer) if isinstance(part, onnx.GraphProto) else ()
    for each in (*part.node, *values):
        each.doc_string = ""
        del each.metadata_props[:]
    for node in part.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget(attribute.g)


def _holds_no_weight(node: Any) -> bool | None:
    """For the constant folder: False where a weight is among the inputs, else None, its own judgement."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


def point_into(model: onnx.ModelProto, *files: Path) -> None:
    """Replace the initializers that are weights by references into safetensors files.

    Raises:
        StoreError: one has another shape than in its file, or weights are in none.
    """
    entries = {name: (path, start, entry) for path in files for name, start, entry in _entries(path)}
    casts = []
    for tensor in model.graph.initializer:
        path, start, entry = entries.get(tensor.name, (None, 0, {}))
        if path is None or entry["dtype"] not in ("F16", "F32"):
            continue
        if list(tensor.dims) != entry["shape"]:
            raise StoreError(f"{tensor.name}: the exporter changed its shape to {list(tensor.dims)}")
        begin, end = entry["data_offsets"]
        plain, rounded_to_half = tensor.name, entry["dtype"] == "F16"
        tensor.CopyFrom(TensorProto(name=plain, dims=entry["shape"], data_type=TensorProto.FLOAT))
        if rounded_to_half:
            tensor.name, tensor.data_type = f"{plain}.fp16", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [tensor.name], [plain], name=f"fp32 {plain}", to=TensorProto.FLOAT))
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", start + begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
    kept = set(_read_by(model.graph))
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in kept and not tensor.external_data]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    inside = sum(numpy_helper.to_array(each).nbytes for each in model.graph.initializer if not each.external_data)
    if inside > 2**20:
        raise StoreError(f"the graph holds {inside:,} bytes of weights that are not in {files[0].name}")


def _entries(weights: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Name, where the data of the file begin, and what its header says of each tensor."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        for name, entry in json.loads(file.read(length)).items():
            yield name, 8 + length, entry


def _read_by(graph: onnx.GraphProto) -> Iterator[str]:
    """What the nodes of a graph read, those of its branches among them."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from _read_by(attribute.g)


@click.command()
@click.argument("name")
@click.option("--weights", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--halve", is_flag=True, help="Round matrices and kernels to fp16, which halves the file.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The model's own folder by default.")
def main(name: str, weights: Path, halve: bool, out: Path | None) -> None:
    """Export a bundled model from a checkpoint, with the golden inputs in its folder."""
    package = package_of(name)
    try:
        checkpoint, inputs = read_checkpoint(weights), golden_inputs(package)
        parity = export(package / "card.toml", checkpoint, inputs, out or package, halve=halve)
    except VitrineError as error:
        raise click.ClickException(str(error)) from error
    for path in sorted(
        each for each in (out or package).rglob("*") if each.suffix in (".onnx", ".safetensors", ".png")
    ):
        click.echo(f"{path.stat().st_size:>12,} bytes  {path}")
    click.echo(f"Largest difference of ONNX Runtime from PyTorch: {parity.largest_difference:.1e}")


if __name__ == "__main__":
    main()
