"""A checkpoint and a card → a model's package: weights, ONNX graph, goldens. Needs PyTorch (the `torch` extra).

`python -m models.export kidney-stone --weights runs/kidney-stone/best_model.pth` makes the package that ships.

One weights file serves both runtimes. Matrices and kernels are rounded to fp16 on disk, vectors stay fp32; the ONNX
graph holds no weights of its own but points into `weights.safetensors` by offset and casts what is fp16 back to fp32,
which ONNX Runtime folds away when it loads. Goldens and figures are of the rounded weights.
"""

import json
import logging
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript.optimizer import fold_constants, remove_unused_nodes
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backends.onnx import OnnxBackend
from errors import StoreError, VitrineError
from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES, PREDICTED, Float32Array
from explain.compile import Explained, NotCompilable
from explain.onnx import OnnxExplainer
from models.architectures import build
from models.card import ModelCard, read_card
from models.goldens import Golden, golden_inputs, write_goldens
from models.interpret import softmax
from models.package import EXPLAIN, GRAPH, WEIGHTS
from models.registry import package_of
from preprocessing.decode import decode
from preprocessing.transform import transform

PARITY = 1e-4
"""Largest |Δ probability| between PyTorch and ONNX Runtime on the same tensor; an export that exceeds it is refused."""

Weights = dict[str, Tensor]

logger = logging.getLogger("vitrine.export")


def read_checkpoint(path: Path) -> Weights:
    """A state_dict from a .safetensors file, or from a .pth that holds nothing but tensors.

    Raises:
        StoreError: not such a file; a pickle that would run code is never loaded.
    """
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise StoreError(
            f"{path}: not a checkpoint that can be read safely ({reason}). "
            "Save `model.state_dict()` with torch.save, or with safetensors."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise StoreError(f"{path}: does not hold a plain state_dict. Save `model.state_dict()` and import that.")
    return {name: tensor.contiguous() for name, tensor in loaded.items()}


def rounded(weights: Weights) -> Weights:
    """Float tensors of two and more dimensions as fp16, everything else as it is (floats as fp32).

    Raises:
        StoreError: a value is not finite, or too large for fp16.
    """

    def one(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor.to(torch.float16 if tensor.ndim >= 2 else torch.float32).contiguous()

    kept = {name: one(weights[name]) for name in sorted(weights)}
    for name, tensor in kept.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StoreError(f"{name}: holds values that are not finite once rounded (fp16 ends at 65,504).")
    return kept


def load_network(card: ModelCard, weights: Weights) -> nn.Module:
    """The card's network with these weights, fp32, in evaluation mode.

    Raises:
        StoreError: names or shapes do not match; the message lists them.
    """
    network = build(card)
    wanted = network.state_dict()
    problems = [f"missing: {name}" for name in wanted if name not in weights]
    problems += [f"unknown: {name}" for name in weights if name not in wanted]
    problems += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise StoreError(f"The weights do not fit {card.architecture}:\n{listed}{more}")
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in weights.items()})
    return network.eval().requires_grad_(False)


def export(card_file: Path, weights: Weights, images: Sequence[tuple[str, bytes]], package: Path) -> float:
    """Write a package's weights, graph and goldens.

    Args:
        card_file: the card.toml; copied into the package.
        weights: the state_dict, any float dtype.
        images: name and encoded bytes of each golden input.
        package: the folder to write into; made if it is not there.

    Returns:
        The parity: the largest |Δ probability| of ONNX Runtime from PyTorch on the goldens, one by one and as a batch.

    Raises:
        StoreError: weights that do not fit, or a parity above `PARITY`.
    """
    card = read_card(card_file)
    kept = rounded(weights)
    network = load_network(card, kept)
    package.mkdir(parents=True, exist_ok=True)
    if (package / "card.toml") != card_file:
        (package / "card.toml").write_bytes(card_file.read_bytes())
    save_file(kept, package / WEIGHTS)
    (package / WEIGHTS).chmod(0o644)
    graph = _traced(network, {"image": torch.zeros(2, 3, *card.input.size)}, ["logits"])
    _point_into(graph, package / WEIGHTS)
    (package / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))

    tensors = np.stack([transform(decode(data, card.limits), card.input).tensor for _, data in images])
    with torch.inference_mode():
        logits = network(torch.from_numpy(tensors)).numpy()
    goldens = [Golden(name, data, row) for (name, data), row in zip(images, logits, strict=True)]
    write_goldens(package, goldens, f"PyTorch {torch.__version__.split('+')[0]}, fp32, CPU, weights as rounded")
    backend = OnnxBackend(package / GRAPH)
    alone = np.concatenate([backend.run(tensors[index : index + 1]) for index in range(len(tensors))])
    together = backend.run(tensors)
    parity = max(float(np.abs(softmax(each) - softmax(logits)).max()) for each in (alone, together))
    if not parity <= PARITY:
        raise StoreError(
            f"{card.name}: ONNX Runtime differs from PyTorch by {parity:.2e} in probability (limit {PARITY:g})."
        )
    if why_not := export_explain(card, network, package, tensors):
        logger.warning("%s cannot be explained without PyTorch: %s.", card.name, why_not)
    return parity


def export_explain(card: ModelCard, network: nn.Module, package: Path, tensors: Float32Array) -> str | None:
    """Write the explain graph of a card that names a layer, beside the weights it points into.

    Args:
        card: names the layer.
        network: with the weights that are in the package.
        package: the folder; an explain graph that lies there is replaced.
        tensors: (N, 3, h, w) float32 to compare with autograd on.

    Returns:
        None, or why there is no graph: then only a server with PyTorch can explain.

    Raises:
        StoreError: a map differs from autograd's by more than `PARITY` of its maximum, or a logit.
    """
    (package / EXPLAIN).unlink(missing_ok=True)
    if card.explain is None:
        return "its card names no layer"
    try:
        module = Explained(network, card.explain.layer, card.input.size)
    except NotCompilable as error:
        return str(error)
    inputs = {"image": torch.zeros(2, 3, *card.input.size), "target": torch.tensor([PREDICTED, 0])}
    graph = _traced(module, inputs, ["logits", *METHOD_NAMES])
    _point_into(graph, package / WEIGHTS)
    (package / EXPLAIN).write_bytes(graph.SerializeToString(deterministic=True))
    targets = np.arange(len(tensors), dtype=np.int64) % (len(card.labels) + 1) + PREDICTED
    reference = AutogradExplainer(network, card.explain.layer).run(tensors, targets, frozenset(METHOD_NAMES))
    compiled = OnnxExplainer(package / EXPLAIN).run(tensors, targets, frozenset(METHOD_NAMES))
    away = {"logits": np.abs(compiled.logits - reference.logits).max() / max(1.0, np.abs(reference.logits).max())}
    for method, maps in reference.maps.items():
        away[method] = np.abs(compiled.maps[method] - maps).max() / max(float(maps.max()), 1e-12)
    for output, by in away.items():
        if not by <= PARITY:
            raise StoreError(
                f"{card.name}: {output} of the explain graph differs from autograd by {by:.1e} of its maximum."
            )
    return None


def _traced(network: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str]) -> onnx.ModelProto:
    """The network as an ONNX model, batch dynamic, without traces of this machine."""
    program = torch.onnx.export(
        network,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
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
        del part.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
    del model.graph.value_info[:]  # 1,227 shapes that ONNX Runtime works out itself
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def _holds_no_weight(node: Any) -> bool | None:
    """For the constant folder: False where a weight is among the inputs, else None, its own judgement."""
    return False if any(value is not None and value.is_initializer() for value in node.inputs) else None


def _point_into(model: onnx.ModelProto, weights: Path) -> None:
    """Replace the initializers that are weights by references into the safetensors file."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    casts = []
    for tensor in model.graph.initializer:
        entry = header.get(tensor.name)
        if entry is None or entry["dtype"] not in ("F16", "F32"):
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
        for key, value in (("location", weights.name), ("offset", 8 + length + begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
    kept = {name for node in model.graph.node for name in node.input}
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in kept and not tensor.external_data]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    inside = sum(numpy_helper.to_array(each).nbytes for each in model.graph.initializer if not each.external_data)
    if inside > 2**20:
        raise StoreError(f"the graph holds {inside:,} bytes of weights that are not in {weights.name}")


@click.command()
@click.argument("name")
@click.option("--weights", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The model's own folder by default.")
def main(name: str, weights: Path, out: Path | None) -> None:
    """Export a bundled model from a .pth or .safetensors state_dict, with the golden inputs in its folder."""
    package = package_of(name)
    try:
        parity = export(package / "card.toml", read_checkpoint(weights), golden_inputs(package), out or package)
    except VitrineError as error:
        raise click.ClickException(str(error)) from error
    for path in sorted(
        each for each in (out or package).rglob("*") if each.suffix in (".onnx", ".safetensors", ".png")
    ):
        click.echo(f"{path.stat().st_size:>12,} bytes  {path}")
    click.echo(f"Largest |Δ probability| of ONNX Runtime from PyTorch, one by one and as a batch: {parity:.1e}")


if __name__ == "__main__":
    main()
