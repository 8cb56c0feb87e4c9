"""Importing an operator's own model: a package is made from a checkpoint, an ONNX graph, or a model of timm's.

Only `from_checkpoint` and `from_timm` need PyTorch.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from backends.base import Batch, Logits
from backends.onnx import OnnxBackend
from errors import StoreError
from export.card_text import replace_values
from export.operator_graph import (
    Notify,
    check_signature,
    first_line,
    load_whole,
    output_name,
    wrong_number_of_logits,
)
from export.parity import BATCH_SIZES, ParityReport, check_parity, random_inputs
from models.card import ASSUMED_HEAD_ACTIVATION, ImageCard, RowCard, parse_card, read_card
from models.goldens import golden_inputs, write_goldens
from models.package import GRAPH
from preprocessing.rows import is_unicode
from serving.self_check import golden_batch

TIMM_CROP_MODES = {"center": "short_side", "squash": "stretch", "border": "letterbox"}
"""What a card's `resize` calls the crop modes of timm."""


class Reference(NamedTuple):
    """What an imported graph is compared with.

    Attributes:
        name: what computes the outputs, for reports.
        run: gives the outputs (N, K) float32 of a batch.
    """

    name: str
    run: Callable[[Batch], Logits]


def from_checkpoint(card_file: Path, weights: Path, inputs: Path, package: Path, notify: Notify) -> ParityReport:
    """Export a checkpoint to ONNX and compare the graph with PyTorch.

    Args:
        card_file: says the architecture, and how pictures or rows are transformed.
        weights: a .safetensors file, or what torch.save wrote.
        inputs: the folder of the package whose golden inputs are used. If an operator's own card asks for other
            features than their rows have, the examples on that card are used instead.
        package: the folder to write into.
        notify: is told what is assumed of the network, since neither the card nor the checkpoint says it.

    Raises:
        CardError: the card is not valid.
        StoreError: the checkpoint cannot be read or does not fit the card, or the graph differs from PyTorch.
    """
    from export.onnx import export_package
    from models.checkpoint import assumes_activation, read_checkpoint

    card = read_card(card_file)
    goldens = golden_inputs(inputs)
    if isinstance(card, RowCard):
        try:
            golden_batch(card, goldens)
        except StoreError:
            row = {entry.name: entry.example for entry in card.input.entries}
            goldens = [("example.json", json.dumps(row).encode())]
    checkpoint = read_checkpoint(weights)
    if assumes_activation(card, checkpoint.metadata):
        notify(
            f"ASSUMED: the head's activation is {ASSUMED_HEAD_ACTIVATION}. No weight tells which it was, and with "
            "another the model answers otherwise. If it was trained with ReLU, say so on a card of your own (--card): "
            'head_activation = "relu".'
        )
    return export_package(card_file, checkpoint, goldens, package)


def from_onnx(
    card_text: str,
    graph: Path,
    labels: Sequence[str],
    inputs: Path,
    package: Path,
    notify: Notify,
    reference: Reference | None = None,
) -> ParityReport:
    """Make a package of an ONNX graph as it comes, and compare the optimised graph with a reference.

    Args:
        card_text: the card; its labels are replaced.
        graph: has one input (N, …) float32 of the card's `input.shape` and an output (N, K); its weights are inside, or
            in files in its folder or below.
        labels: K of them, in the order of the outputs.
        inputs: the folder of the package whose golden inputs are used.
        package: the folder to write into; it is created if it does not exist.
        notify: is called with what is unusual about the graph.
        reference: what the graph is compared with; by default the same graph without ONNX Runtime's optimisations.

    Raises:
        CardError: the card is not valid.
        StoreError: the graph or its weights cannot be read, it has other inputs or outputs, or gives probabilities or
            something else than the reference; the message says which.
    """
    card_text = replace_values(card_text, {"labels": list(labels)})
    card = parse_card(card_text, "card.toml")
    if not isinstance(card, ImageCard):
        raise StoreError(f"{card.name} takes no pictures; only an image classifier can come as a graph.")
    package.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Alone in a folder the graph cannot read weights from a file beside it, least of all from the package.
        whole = Path(folder) / GRAPH
        unoptimised = load_whole(graph, whole, notify)
        shutil.copyfile(whole, package / GRAPH)
    check_signature(unoptimised, card, graph, notify)
    reference = reference or _unoptimised_reference(unoptimised)
    golden_files = golden_inputs(inputs)
    goldens = golden_batch(card, golden_files)
    batch = np.concatenate([goldens, random_inputs(card)])
    expected = _reference_outputs(reference, batch, len(labels), graph)
    (package / "card.toml").write_text(card_text, "utf-8")
    write_goldens(package, golden_files, expected[: len(goldens)], reference.name)
    try:
        backend = OnnxBackend(package / GRAPH)
        report = check_parity(card, batch, expected, backend, reference_name=reference.name, goldens=len(goldens))
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"{graph}: cannot be run in batches of {max(BATCH_SIZES)} ({first_line(error)}). Export it with a batch "
            "that is dynamic throughout, or fixed at 1."
        ) from error
    report.write(package)
    return report


def from_timm(
    card_text: str, name: str, labels: Sequence[str] | None, inputs: Path, package: Path, notify: Notify
) -> ParityReport:
    """Make a package of a model that timm loads from its hub, and compare its graph with PyTorch.

    The card's size, resizing, kernel, mean and standard deviation become those that the weights are evaluated with.

    Args:
        card_text: the card; its labels and the values above are replaced.
        name: what timm calls the model.
        labels: in the order of the outputs; None for ImageNet's.
        inputs: as for `from_onnx`.
        package: as for `from_onnx`.
        notify: as for `from_onnx`.

    Raises:
        CardError: the card is not valid.
        StoreError: timm does not know the model, its weights can neither be fetched nor found in the hub's cache, or
            its classes have no labels.
    """
    import timm
    import torch

    from export.graph import trace_to_onnx
    from export.onnx import pytorch_name

    try:
        network: Any = timm.create_model(name, pretrained=True).eval().requires_grad_(False)
    except Exception as error:
        raise StoreError(
            f"timm cannot load {name!r} ({first_line(error)}). Check the name, and that this machine reaches the "
            "hub or has the weights in its cache (HF_HOME)."
        ) from error
    if labels is None and network.num_classes != 1000:
        raise StoreError(f"{name} has {network.num_classes} classes, not ImageNet's: bring --labels.")
    config: dict[str, Any] = dict(network.pretrained_cfg)
    shape, kernel, mean, std = (config[key] for key in ("input_size", "interpolation", "mean", "std"))
    crop_pct, crop_mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
    notify(f"{name}: input {shape}, {kernel}, crop_pct {crop_pct}, crop_mode {crop_mode}, mean {mean}, std {std}")
    added = {"input.resize": TIMM_CROP_MODES[crop_mode], "input.crop_pct": crop_pct}
    if crop_mode == "border":
        added["input.fill"] = [round(255 * value) for value in mean]
    card_text = replace_values(
        card_text,
        {"input.mean": list(mean), "input.std": list(std), "input.size": list(shape[1:]), "input.kernel": kernel},
        added,
    )

    def run(batch: Batch) -> Logits:
        with torch.inference_mode():
            logits: Logits = network(torch.from_numpy(batch)).numpy()
        return logits

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / GRAPH
        model = trace_to_onnx(network, {"image": torch.zeros(2, *shape)}, ["logits"])
        graph.write_bytes(model.SerializeToString(deterministic=True))
        reference = Reference(pytorch_name(), run)
        return from_onnx(card_text, graph, labels or _imagenet_labels(), inputs, package, notify, reference)


def read_labels(path: Path) -> list[str]:
    """Return the labels in a file, in the order of the outputs: one a line, or a JSON list.

    A label that occurs more than once (ImageNet has two cranes) gets its index behind it.

    Raises:
        StoreError: the file cannot be read, or holds fewer than two labels.
    """
    try:
        text = path.read_text("utf-8-sig")
        rows = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: the labels cannot be read ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise StoreError(f"{path}: a JSON file of labels must hold a list of texts.")
    labels = [row.strip() for row in rows]
    while labels and not labels[-1]:
        labels.pop()
    if not all(map(is_unicode, labels)):
        raise StoreError(f"{path}: a label holds half of a surrogate pair, which is no text.")
    if len(labels) < 2 or not all(labels):
        raise StoreError(f"{path}: there must be two labels or more, one a line and no line empty.")
    return _distinct(labels)


def _imagenet_labels() -> list[str]:
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return _distinct([info.index_to_description(index) for index in range(1000)])


def _distinct(labels: list[str]) -> list[str]:
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels)]


def _unoptimised_reference(session: ort.InferenceSession) -> Reference:
    """Return a reference that runs a session item by item, since the graph's batch may be fixed at 1."""
    image, logits = session.get_inputs()[0].name, output_name(session)

    def run(batch: Batch) -> Logits:
        return np.concatenate([session.run([logits], {image: item[None]})[0] for item in batch])

    return Reference(f"ONNX Runtime {ort.__version__} without optimisations, CPU", run)


def _reference_outputs(reference: Reference, batch: Batch, labels: int, graph: Path) -> Logits:
    """Run the reference, and raise StoreError unless it gives as many logits as there are labels."""
    try:
        outputs = reference.run(batch)
    except Exception as error:
        raise StoreError(f"{graph}: cannot be run on {batch.shape[1:]} ({first_line(error)}).") from error
    if outputs.shape != (len(batch), labels):
        raise wrong_number_of_logits(graph, labels, outputs.shape[1:])
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1.0, atol=1e-3):
        raise StoreError(f"{graph}: gives probabilities; softmax would be taken twice. Export it without its softmax.")
    return outputs
