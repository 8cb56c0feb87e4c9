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
from export.parity import BATCH_SIZES, ParityReport, check_parity, random_inputs
from models.card import ImageCard, RowCard, parse_card, read_card
from models.goldens import golden_inputs, write_goldens
from models.package import GRAPH
from preprocessing.rows import is_unicode
from serving.self_check import golden_batch

Notify = Callable[[str], None]
"""Takes a line for the operator about something unusual."""


class Reference(NamedTuple):
    """What an imported graph is compared with.

    Attributes:
        name: what computes the outputs, for reports.
        run: gives the outputs (N, K) float32 of a batch.
    """

    name: str
    run: Callable[[Batch], Logits]


def from_checkpoint(card_file: Path, weights: Path, inputs: Path, package: Path) -> ParityReport:
    """Export a checkpoint to ONNX and compare the graph with PyTorch.

    Args:
        card_file: says the architecture, and how pictures or rows are transformed.
        weights: a .safetensors file, or what torch.save wrote.
        inputs: the folder of the package whose golden inputs are used. If an operator's own card asks for other
            features than their rows have, the examples on that card are used instead.
        package: the folder to write into.

    Raises:
        CardError: the card is not valid.
        StoreError: the checkpoint cannot be read or does not fit the card, or the graph differs from PyTorch.
    """
    from export.onnx import export_package
    from models.checkpoint import read_checkpoint

    card = read_card(card_file)
    goldens = golden_inputs(inputs)
    if isinstance(card, RowCard):
        try:
            golden_batch(card, goldens)
        except StoreError:
            row = {entry.name: entry.example for entry in card.input.entries}
            goldens = [("example.json", json.dumps(row).encode())]
    return export_package(card_file, read_checkpoint(weights), goldens, package)


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
        graph: has one input (N, 3, h, w) float32 and an output (N, K); all weights are inside.
        labels: K of them, in the order of the outputs.
        inputs: the folder of the package whose golden inputs are used.
        package: the folder to write into; it is created if it does not exist.
        notify: is called with what is unusual about the graph.
        reference: what the graph is compared with; by default the same graph without ONNX Runtime's optimisations.

    Raises:
        CardError: the card is not valid.
        StoreError: the graph cannot be read, keeps weights in another file, has other inputs or outputs, or gives
            probabilities or something else than the reference; the message says which.
    """
    card_text = replace_values(card_text, {"labels": list(labels)})
    card = parse_card(card_text, "card.toml")
    if not isinstance(card, ImageCard):
        raise StoreError(f"{card.name} takes no pictures; only an image classifier can come as a graph.")
    with tempfile.TemporaryDirectory() as folder:
        # Alone in a folder the graph cannot read weights from a file beside it, least of all from the package.
        unoptimised = _unoptimised_session(Path(shutil.copyfile(graph, Path(folder) / GRAPH)), graph)
    _check_signature(unoptimised, card, graph, notify)
    reference = reference or _unoptimised_reference(unoptimised)
    golden_files = golden_inputs(inputs)
    goldens = golden_batch(card, golden_files)
    batch = np.concatenate([goldens, random_inputs(card)])
    expected = _reference_outputs(reference, batch, len(labels), graph)
    package.mkdir(parents=True, exist_ok=True)
    (package / "card.toml").write_text(card_text, "utf-8")
    shutil.copyfile(graph, package / GRAPH)
    write_goldens(package, golden_files, expected[: len(goldens)], reference.name)
    try:
        backend = OnnxBackend(package / GRAPH)
        report = check_parity(card, batch, expected, backend, reference_name=reference.name, goldens=len(goldens))
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"{graph}: cannot be run in batches of {max(BATCH_SIZES)} ({_first_line(error)}). Export it with a batch "
            "that is dynamic throughout, or fixed at 1."
        ) from error
    report.write(package)
    return report


def from_timm(
    card_text: str, name: str, labels: Sequence[str] | None, inputs: Path, package: Path, notify: Notify
) -> ParityReport:
    """Make a package of a model that timm loads from its hub, and compare its graph with PyTorch.

    The card's size, kernel, mean and standard deviation become those that the weights were trained with.

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
            f"timm cannot load {name!r} ({_first_line(error)}). Check the name, and that this machine reaches the "
            "hub or has the weights in its cache (HF_HOME)."
        ) from error
    if labels is None and network.num_classes != 1000:
        raise StoreError(f"{name} has {network.num_classes} classes, not ImageNet's: bring --labels.")
    config: dict[str, Any] = dict(network.pretrained_cfg)
    shape, kernel, mean, std = (config[key] for key in ("input_size", "interpolation", "mean", "std"))
    notify(f"{name}: input {shape}, {kernel}, mean {mean}, std {std}")
    card_text = replace_values(
        card_text,
        {"input.mean": list(mean), "input.std": list(std), "input.size": list(shape[1:]), "input.kernel": kernel},
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


def _unoptimised_session(graph: Path, origin: Path) -> ort.InferenceSession:
    """Load a graph without ONNX Runtime's optimisations; `origin` is what messages call it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StoreError(
            f"{origin}: ONNX Runtime cannot load it ({_first_line(error)}). It must be one ONNX file with its "
            f"weights inside: `onnx.save(onnx.load({origin.name!r}), 'whole.onnx')` writes such."
        ) from error


def _check_signature(session: ort.InferenceSession, card: ImageCard, graph: Path, notify: Notify) -> None:
    """Raise StoreError unless a graph's input and output are those of the card."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
        raise StoreError(f"{graph}: must have one input of rank 4, N×3×h×w float32; it has {listed}.")
    batch, *shape = inputs[0].shape
    card_shape = [3, *card.input.size]
    if any(isinstance(side, int) and side != expected for side, expected in zip(shape, card_shape, strict=True)):
        raise StoreError(f"{graph}: its input is {shape}, but the card's is {card_shape}.")
    if isinstance(batch, int):
        if batch != 1:
            raise StoreError(f"{graph}: its batch is fixed at {batch}. Export it with a dynamic batch, or with 1.")
        notify(f"{graph}: its batch is fixed at 1, so it is served without batching.")
    names = [node.name for node in outputs]
    if len(outputs) > 1 and "logits" not in names:
        raise StoreError(f"{graph}: has outputs {', '.join(names)}; name the one to use `logits`.")
    output = outputs[names.index(_output_name(session))]
    if len(output.shape) != 2:
        raise StoreError(f"{graph}: its output {output.name} must be of rank 2, N×K; it is {output.shape}.")
    if isinstance(output.shape[1], int) and output.shape[1] != len(card.labels):
        raise _wrong_number_of_logits(graph, len(card.labels), (output.shape[1],))


def _output_name(session: ort.InferenceSession) -> str:
    names: list[str] = [node.name for node in session.get_outputs()]
    return "logits" if "logits" in names else names[0]


def _unoptimised_reference(session: ort.InferenceSession) -> Reference:
    """Return a reference that runs a session item by item, since the graph's batch may be fixed at 1."""
    input_name, output_name = session.get_inputs()[0].name, _output_name(session)

    def run(batch: Batch) -> Logits:
        return np.concatenate([session.run([output_name], {input_name: item[None]})[0] for item in batch])

    return Reference(f"ONNX Runtime {ort.__version__} without optimisations, CPU", run)


def _reference_outputs(reference: Reference, batch: Batch, labels: int, graph: Path) -> Logits:
    """Run the reference, and raise StoreError unless it gives as many logits as there are labels."""
    try:
        outputs = reference.run(batch)
    except Exception as error:
        raise StoreError(f"{graph}: cannot be run on {batch.shape[1:]} ({_first_line(error)}).") from error
    if outputs.shape != (len(batch), labels):
        raise _wrong_number_of_logits(graph, labels, outputs.shape[1:])
    if (outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1.0, atol=1e-3):
        raise StoreError(f"{graph}: gives probabilities; softmax would be taken twice. Export it without its softmax.")
    return outputs


def _wrong_number_of_logits(graph: Path, labels: int, outputs: tuple[int, ...]) -> StoreError:
    return StoreError(f"{graph}: gives {'×'.join(map(str, outputs))} logits, but there are {labels} labels.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
