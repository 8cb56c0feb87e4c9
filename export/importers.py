"""An operator's own model → a package: a checkpoint of a card's architecture, an ONNX graph as it comes, or timm's.

Only `from_checkpoint` and `from_timm` need PyTorch.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from backends.base import Batch, Logits
from backends.onnx import OnnxBackend
from errors import StoreError
from export.parity import BATCHES, Parity, check, golden_batch, random_inputs, write
from models.card import ImageCard, RowCard, parse_card, read_card
from models.goldens import Golden, golden_inputs, write_goldens
from models.package import GRAPH
from preprocessing.rows import is_unicode

Said = Callable[[str], None]
"""Takes a line for the operator: what was found, what was changed."""


def from_checkpoint(card_file: Path, weights: Path, inputs: Path, package: Path) -> Parity:
    """Export a checkpoint to ONNX behind the parity gate; see `export.onnx.export`.

    Args:
        card_file: says the architecture and how pictures or rows are transformed.
        weights: .safetensors, or what torch.save wrote.
        inputs: the folder whose golden inputs are used.
        package: the folder to write into.
    """
    from export.onnx import export
    from models.checkpoint import read_checkpoint

    card = read_card(card_file)
    goldens = golden_inputs(inputs)
    if isinstance(card, RowCard):
        try:
            golden_batch(card, goldens)
        except StoreError:  # an operator's own card with other features: its own example stands in
            row = {each.name: each.example for each in card.input.entries}
            goldens = [("example.json", json.dumps(row).encode())]
    return export(card_file, read_checkpoint(weights), goldens, package)


def own_card(card_text: str, weights: Path) -> str:
    """A bundled card for weights that are not the bundled ones: without what it says of those."""
    return _with(_with(card_text, "data", json.dumps(f"your own weights ({weights.name})")), "warnings", "[]")


def read_labels(path: Path) -> list[str]:
    """Labels from a file with one a line, or a JSON list, in the order of the outputs.

    A label that stands more than once (ImageNet has two cranes) gets its index behind it.

    Raises:
        StoreError: the file cannot be read, or holds fewer than two.
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
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels)]


def from_onnx(
    card_text: str,
    graph: Path,
    labels: list[str],
    inputs: Path,
    package: Path,
    say: Said,
    reference: tuple[str, Callable[[Batch], Logits]] | None = None,
) -> Parity:
    """Take an ONNX graph as it comes.

    Args:
        card_text: the card, without labels.
        graph: one input (N, 3, h, w) float32, and an output (N, K); all weights inside.
        labels: K of them.
        inputs: the folder whose golden inputs are used.
        package: the folder to write into; made if it is not there.
        say: is told what is unusual.
        reference: its name, and what the outputs should be; without one, the same graph with every optimisation of
            ONNX Runtime off.

    Raises:
        StoreError: the graph cannot be read, keeps weights in another file, or has other inputs or outputs; the
            message says which.
    """
    card = parse_card(with_labels(card_text, labels), "card.toml")
    if not isinstance(card, ImageCard):
        raise StoreError(f"{card.name} takes no pictures; only an image classifier can come as a graph.")
    with tempfile.TemporaryDirectory() as folder:
        # Alone in a folder, so that it finds no weights in a file beside it, least of all in one of the package.
        plain = _plain_session(Path(shutil.copyfile(graph, Path(folder) / GRAPH)), graph)
    package.mkdir(parents=True, exist_ok=True)
    (package / "card.toml").write_text(with_labels(card_text, labels), "utf-8")
    shutil.copyfile(graph, package / GRAPH)
    _check_signature(plain, card, graph, say)
    goldens = golden_batch(card, golden_inputs(inputs))
    batch = np.concatenate([goldens, random_inputs(card)])
    named, run = reference or (f"ONNX Runtime {ort.__version__} without optimisations, CPU", _one_by_one(plain))
    try:
        wanted = run(batch)
    except Exception as error:
        raise StoreError(f"{graph}: cannot be run on {batch.shape[1:]} ({_first_line(error)}).") from error
    if wanted.shape != (len(batch), len(labels)):
        raise StoreError(_counts(graph, len(labels), wanted.shape[1:]))
    if (wanted >= 0).all() and np.allclose(wanted.sum(axis=1), 1.0, atol=1e-3):
        raise StoreError(f"{graph}: gives probabilities; softmax would be taken twice. Export it without its softmax.")
    pairs = zip(golden_inputs(inputs), wanted[: len(goldens)], strict=True)
    write_goldens(package, [Golden(name, data, row) for (name, data), row in pairs], named)
    try:
        found = check(card, batch, wanted, OnnxBackend(package / GRAPH), named=named, goldens=len(goldens))
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"{graph}: cannot be run in batches of {max(BATCHES)} ({_first_line(error)}). Export it with a batch that "
            "is dynamic throughout, or fixed at 1."
        ) from error
    write(found, package)
    return found


def from_timm(card_text: str, name: str, labels: list[str] | None, inputs: Path, package: Path, say: Said) -> Parity:
    """Fetch a model with timm's own hub code, trace it, and take the graph.

    The card's size, kernel, mean and standard deviation become those that the weights were trained with.

    Raises:
        StoreError: timm does not know it, or it is neither in the hub's cache nor to be fetched.
    """
    import timm
    import torch
    from timm.data.imagenet_info import ImageNetInfo

    from export.onnx import traced

    try:
        network: Any = timm.create_model(name, pretrained=True).eval().requires_grad_(False)
    except Exception as error:
        raise StoreError(
            f"timm cannot load {name!r} ({_first_line(error)}). Check the name, and that this machine reaches the "
            "hub or has the weights in its cache (HF_HOME)."
        ) from error
    config: dict[str, Any] = dict(network.pretrained_cfg)
    if labels is None:
        if network.num_classes != 1000:
            raise StoreError(f"{name} has {network.num_classes} classes, not ImageNet's: bring --labels.")
        info = ImageNetInfo()
        labels = [info.index_to_description(index) for index in range(1000)]
        labels = [each if labels.count(each) == 1 else f"{each} ({index})" for index, each in enumerate(labels)]
    for key in ("mean", "std"):
        card_text = _with(card_text, key, str(list(config[key])))
    card_text = _with(card_text, "size", str(list(config["input_size"][1:])))
    card_text = _with(card_text, "kernel", json.dumps(config["interpolation"]))
    say(f"{name}: input {config['input_size']}, {config['interpolation']}, mean {config['mean']}, std {config['std']}")
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / GRAPH
        model = traced(network, {"image": torch.zeros(2, *config["input_size"])}, ["logits"])
        graph.write_bytes(model.SerializeToString(deterministic=True))

        def run(batch: Batch) -> Logits:
            with torch.inference_mode():
                logits: Logits = network(torch.from_numpy(batch)).numpy()
            return logits

        named = f"PyTorch {torch.__version__.split('+')[0]}, fp32, CPU"
        return from_onnx(card_text, graph, labels, inputs, package, say, (named, run))


def with_labels(card_text: str, labels: list[str]) -> str:
    """A card's text with these labels; JSON's strings are TOML's."""
    return _with(card_text, "labels", json.dumps(labels, ensure_ascii=False))


def _with(card_text: str, key: str, value: str) -> str:
    if key == "warnings" and not re.search("(?m)^warnings = ", card_text):
        return card_text
    changed, count = re.subn(
        rf"(?m)^{key} = \[[^\]]*\]$|^{key} = .*$", lambda _: f"{key} = {value}", card_text, count=1
    )
    if not count:
        raise StoreError(f"The card has no line for {key}; add one, and it is filled in.")
    return changed


def _plain_session(graph: Path, came_from: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StoreError(
            f"{came_from}: ONNX Runtime cannot load it ({_first_line(error)}). It must be one ONNX file with its "
            f"weights inside: `onnx.save(onnx.load({came_from.name!r}), 'whole.onnx')` writes such."
        ) from error


def _check_signature(session: ort.InferenceSession, card: ImageCard, graph: Path, say: Said) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
        listed = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
        raise StoreError(f"{graph}: must have one input of rank 4, N×3×h×w float32; it has {listed}.")
    batch, *item = inputs[0].shape
    for axis, wanted in zip(item, (3, *card.input.size), strict=True):
        if isinstance(axis, int) and axis != wanted:
            raise StoreError(f"{graph}: its input is {item}, but the card's is {[3, *card.input.size]}.")
    if isinstance(batch, int):
        if batch != 1:
            raise StoreError(f"{graph}: its batch is fixed at {batch}. Export it with a dynamic batch, or with 1.")
        say(f"{graph}: its batch is fixed at 1, so it is served without batching.")
    if len(outputs) > 1 and "logits" not in [each.name for each in outputs]:
        raise StoreError(
            f"{graph}: has outputs {', '.join(each.name for each in outputs)}; name the one to use `logits`."
        )
    chosen = next((each for each in outputs if each.name == "logits"), outputs[0])
    if len(chosen.shape) != 2:
        raise StoreError(f"{graph}: its output {chosen.name} must be of rank 2, N×K; it is {chosen.shape}.")
    if isinstance(chosen.shape[1], int) and chosen.shape[1] != len(card.labels):
        raise StoreError(_counts(graph, len(card.labels), (chosen.shape[1],)))


def _counts(graph: Path, labels: int, outputs: tuple[int, ...]) -> str:
    return f"{graph}: gives {'×'.join(map(str, outputs))} logits, but there are {labels} labels."


def _one_by_one(session: ort.InferenceSession) -> Callable[[Batch], Logits]:
    name = session.get_inputs()[0].name
    outputs = [each.name for each in session.get_outputs()]
    output = "logits" if "logits" in outputs else outputs[0]

    def run(batch: Batch) -> Logits:
        return np.concatenate([session.run([output], {name: batch[at : at + 1]})[0] for at in range(len(batch))])

    return run


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
