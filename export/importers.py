"""Importing an operator's own model: a package is made from a checkpoint (with PyTorch) or from an ONNX graph."""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from backends.base import Batch, Logits
from backends.onnx import OnnxBackend
from errors import StoreError
from export.operator_graph import (
    Notify,
    check_signature,
    first_line,
    load_whole,
    output_name,
    wrong_number_of_logits,
)
from export.parity import BATCH_SIZES, ParityReport, check_parity, random_inputs
from models.background import BACKGROUND, read_background
from models.card import ASSUMED_HEAD_ACTIVATION, ImageCard, RowCard, parse_card, read_card
from models.goldens import write_goldens
from models.package import GRAPH
from serving.self_check import golden_batch


class Reference(NamedTuple):
    """What an imported graph is compared with.

    Attributes:
        name: what computes the outputs, for reports.
        run: gives the outputs (N, K) float32 of a batch.
    """

    name: str
    run: Callable[[Batch], Logits]


def from_checkpoint(
    card_file: Path, weights: Path, goldens: Sequence[tuple[str, bytes]], package: Path, notify: Notify
) -> ParityReport:
    """Export a checkpoint to ONNX and compare the graph with PyTorch.

    Args:
        card_file: says the architecture, and how pictures or rows are transformed.
        weights: a .safetensors file, or what torch.save wrote.
        goldens: name and encoded bytes of each golden input. If an operator's own card asks for other features than
            their rows have, the examples on that card are used instead.
        package: the folder to write into; a background beside the card of a model of rows is copied there.
        notify: is told what is assumed of the network, since neither the card nor the checkpoint says it.

    Raises:
        CardError: the card is not valid.
        StoreError: the checkpoint cannot be read or does not fit the card, or the graph differs from PyTorch.
    """
    from export.onnx import export_package
    from models.checkpoint import assumes_activation, read_checkpoint

    card = read_card(card_file)
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
    report = export_package(card_file, checkpoint, goldens, package)
    if isinstance(card, RowCard) and card_file.parent != package and read_background(card_file.parent, card.input):
        shutil.copyfile(card_file.with_name(BACKGROUND), package / BACKGROUND)
    return report


def from_onnx(
    card_text: str,
    graph: Path,
    golden_files: Sequence[tuple[str, bytes]],
    package: Path,
    notify: Notify,
    reference: Reference | None = None,
) -> ParityReport:
    """Make a package of an ONNX graph as it comes, and compare the optimised graph with a reference.

    Args:
        card_text: the card, with a label for each output.
        graph: has one input (N, …) float32 of the card's `input.shape` and an output (N, K); its weights are inside, or
            in files in its folder or below.
        golden_files: name and encoded bytes of each golden input.
        package: the folder to write into; it is created if it does not exist.
        notify: is called with what is unusual about the graph.
        reference: what the graph is compared with; by default the same graph without ONNX Runtime's optimisations.

    Raises:
        CardError: the card is not valid.
        StoreError: the graph or its weights cannot be read, it has other inputs or outputs, or gives probabilities or
            something else than the reference; the message says which.
    """
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
    goldens = golden_batch(card, golden_files)
    batch = np.concatenate([goldens, random_inputs(card)])
    expected = _reference_outputs(reference, batch, len(card.labels), graph)
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
