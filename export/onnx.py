"""Exporting a checkpoint to a model's package: weights, ONNX graphs, goldens and reports. Needs the `torch` extra.

`python -m export.onnx kidney-stone --halve --weights runs/kidney-stone/best_model.pth` makes the package that ships.

Both runtimes share one weights file: the ONNX graphs hold no weights of their own but refer to `weights.safetensors` by
offset. Weights that ship are halved: matrices and kernels are fp16 on disk, vectors stay fp32, and the graph casts back
to fp32, which ONNX Runtime folds away when it loads.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from backends.onnx import OnnxBackend
from errors import NotCompilable, StoreError, VitrineError
from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES, NO_CONTRAST, PREDICTED, Float32Array, Int64Array
from explain.compile import NetworkWithMaps
from explain.onnx import OnnxExplainer
from export.graph import trace_to_onnx, use_external_weights
from export.parity import LIMIT, ParityReport, check_parity, random_inputs
from models.card import ImageCard, read_card
from models.checkpoint import Checkpoint, Weights, check_dimensions, load_network, read_checkpoint, round_weights
from models.goldens import golden_inputs, write_goldens
from models.package import EXPLAIN, GRAPH, WEIGHTS
from models.registry import package_folder
from serving.self_check import golden_batch

logger = logging.getLogger("vitrine.export")


def export_package(
    card_file: Path, checkpoint: Checkpoint, inputs: Sequence[tuple[str, bytes]], package: Path, *, halve: bool = False
) -> ParityReport:
    """Write a package's card, weights, graphs, goldens and parity report.

    Args:
        card_file: the card.toml, which is copied into the package.
        checkpoint: the weights, of any float dtype.
        inputs: name and encoded bytes of each golden input.
        package: the folder to write into; it is created if it does not exist.
        halve: whether to round matrices and kernels to fp16, which halves the file; the reference then uses the rounded
            weights.

    Returns:
        The parity report of ONNX Runtime against PyTorch, on the goldens and on random inputs.

    Raises:
        CardError: the card is not valid.
        StoreError: the weights do not fit, or a graph does not give what PyTorch gives.
    """
    card = read_card(card_file)
    check_dimensions(card, checkpoint.metadata)
    weights = {name: checkpoint.weights[name] for name in sorted(checkpoint.weights)}
    network = load_network(card, weights)
    count = sum(parameter.numel() for parameter in network.parameters())
    if card.parameters not in (None, count):
        raise StoreError(
            f"{card.name}: the card says {card.parameters:,} parameters, its network has {count:,}. "
            "Change `parameters` on the card, or leave it out."
        )
    weights = round_weights(weights) if halve else _as_fp32(weights)
    if halve:
        network = load_network(card, weights)
    package.mkdir(parents=True, exist_ok=True)
    if (package / "card.toml") != card_file:
        (package / "card.toml").write_bytes(card_file.read_bytes())
    save_file(weights, package / WEIGHTS)
    (package / WEIGHTS).chmod(0o644)
    goldens = golden_batch(card, inputs)
    batch = np.concatenate([goldens, random_inputs(card)])
    graph = trace_to_onnx(network, {card.input.kind: torch.zeros(2, *batch.shape[1:])}, ["logits"])
    use_external_weights(graph, package / WEIGHTS)
    (package / GRAPH).write_bytes(graph.SerializeToString(deterministic=True))

    with torch.inference_mode():
        reference = network(torch.from_numpy(batch)).numpy()
    reference_name = pytorch_name() + (", weights as rounded" if halve else "")
    write_goldens(package, inputs, reference[: len(inputs)], reference_name)
    backend = OnnxBackend(package / GRAPH)
    report = check_parity(card, batch, reference, backend, reference_name=reference_name, goldens=len(goldens))
    replace(report, checkpoint=checkpoint.metadata or None).write(package)
    if isinstance(card, ImageCard) and (obstacle := export_explain_graph(card, network, package, goldens)):
        logger.warning("%s cannot be explained without PyTorch: %s.", card.name, obstacle)
    return report


def pytorch_name() -> str:
    """Return what reports call a reference that PyTorch computed."""
    return f"PyTorch {torch.__version__.split('+')[0]}, fp32, CPU"


def _as_fp32(weights: Weights) -> Weights:
    """Return copies of the weights, floats as fp32; copies, since a file cannot hold two that share their memory."""
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return {name: tensor.clone().contiguous() for name, tensor in floats.items()}


def export_explain_graph(card: ImageCard, network: nn.Module, package: Path, tensors: Float32Array) -> str | None:
    """Write the explain graph of a card that names a layer, beside the weights that it refers to.

    Args:
        card: names the layer.
        network: with the weights that are in the package.
        package: the folder; an explain graph in it is replaced.
        tensors: (N, 3, h, w) float32, on which the graph is compared with autograd.

    Returns:
        None, or why there is no explain graph: then only a server with PyTorch can explain the model.

    Raises:
        StoreError: a map or the logits differ from autograd's by more than `LIMIT` of their maximum.
    """
    (package / EXPLAIN).unlink(missing_ok=True)
    if card.explain is None:
        return "its card names no layer"
    try:
        module = NetworkWithMaps(network, card.explain.layer, card.input.size)
    except NotCompilable as error:
        return str(error)
    examples = {"image": torch.zeros(2, *card.input.shape), "target": torch.tensor([PREDICTED, 0])}
    examples["contrast"] = torch.tensor([NO_CONTRAST, 1])
    graph = trace_to_onnx(module, examples, ["logits", *METHOD_NAMES])
    use_external_weights(graph, package / WEIGHTS)
    (package / EXPLAIN).write_bytes(graph.SerializeToString(deterministic=True))
    explainers = OnnxExplainer(package / EXPLAIN), AutogradExplainer(network, card.explain.layer)
    targets = np.arange(len(tensors), dtype=np.int64) % (len(card.labels) + 1) + PREDICTED
    _check_maps(card, explainers, tensors, targets, np.full_like(targets, NO_CONTRAST), frozenset(METHOD_NAMES))
    # Grad-CAM++ divides by what may be close to 0 where a gradient has both signs, as that of a contrast has.
    others = frozenset(METHOD_NAMES) - {"gradcam++"}
    _check_maps(card, explainers, tensors, np.maximum(targets, 1), np.zeros_like(targets), others)
    return None


def _check_maps(
    card: ImageCard,
    explainers: tuple[OnnxExplainer, AutogradExplainer],
    tensors: Float32Array,
    targets: Int64Array,
    contrasts: Int64Array,
    methods: frozenset[str],
) -> None:
    """Raise StoreError unless logits and maps of the explain graph are autograd's, within `LIMIT` of their maximum."""
    compiled, reference = (explainer.run(tensors, targets, methods, contrasts) for explainer in explainers)
    pairs = {"logits": (compiled.logits, reference.logits, max(1.0, float(np.abs(reference.logits).max())))}
    for method, maps in reference.maps.items():
        pairs[method] = (compiled.maps[method], maps, max(float(maps.max()), 1e-12))
    for output, (actual, expected, scale) in pairs.items():
        largest = float(np.abs(actual - expected).max()) / scale
        if not largest <= LIMIT:
            raise StoreError(
                f"{card.name}: {output} of the explain graph differs from autograd by {largest:.1e} of its maximum."
            )


@click.command()
@click.argument("name")
@click.option("--weights", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--halve", is_flag=True, help="Round matrices and kernels to fp16, which halves the file.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The model's own folder by default.")
def main(name: str, weights: Path, halve: bool, out: Path | None) -> None:
    """Export a bundled model from a checkpoint, with the golden inputs in its folder."""
    source = package_folder(name)
    package = out or source
    try:
        checkpoint, inputs = read_checkpoint(weights), golden_inputs(source)
        report = export_package(source / "card.toml", checkpoint, inputs, package, halve=halve)
    except VitrineError as error:
        raise click.ClickException(str(error)) from error
    for path in sorted(package.rglob("*")):
        if path.suffix in (".onnx", ".safetensors", ".png"):
            click.echo(f"{path.stat().st_size:>12,} bytes  {path}")
    click.echo(f"Largest difference of ONNX Runtime from PyTorch: {report.largest_difference:.1e}")


if __name__ == "__main__":
    main()
