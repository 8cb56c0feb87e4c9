"""From PyTorch networks and checkpoints to packages. Needs the `torch` extra."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from backends.base import Batch, Logits
from errors import StoreError
from export.graph import trace_to_onnx
from export.importers import Reference, from_checkpoint
from export.onnx import pytorch_name
from export.operator_graph import Notify, first_line
from export.parity import ParityReport
from export.picture_examples import golden_pictures
from export.sources.kinds import HUBS, file_kind
from export.sources.networks import Checkpoint, Network, timm_network, torchvision_name, torchvision_network
from export.sources.onnx_graph import read_graph
from export.sources.picture_card import Input, card_input
from export.sources.pictures import PictureModel, package_from_graph, picture_card_text
from export.sources.request import AddRequest
from export.sources.torchscript import read_torchscript
from export.sources.torchserve import CLASSIFIER_INPUT, read_mar
from models.card import ImageCard, RowCard, read_card
from models.checkpoint import read_checkpoint
from models.package import GRAPH
from models.registry import bundled_cards, package_folder

REFERENCE_BATCH = 4
"""How many pictures PyTorch computes at a time."""


class WeightsFile(NamedTuple):
    """A file of weights, and what is known of it.

    Attributes:
        file: a .safetensors file, or what torch.save wrote.
        name: what its owner calls it.
        input: keys of a card's section `input`, where what served the model says them.
        labels: likewise.
    """

    file: Path
    name: str
    input: Input | None = None
    labels: Sequence[str] | None = None


def package_from_hub(request: AddRequest, name: str, package: Path, notify: Notify) -> ParityReport:
    """Write the package of a network of timm's or torchvision's.

    Raises:
        CardError: the operator's card is not valid.
        StoreError: as `timm_network` and `torchvision_network`, or the network cannot be exported.
    """
    build = timm_network if request.source.kind == "timm" else torchvision_network
    if request.weights is None:
        return _package_from_network(request, name, build(request.source.name, None), None, package, notify)
    with tempfile.TemporaryDirectory() as folder:
        weights = WeightsFile(_readable(request.weights, Path(folder)), request.weights.name)
        network = build(request.source.name, Checkpoint(weights.file, weights.name, is_own=False))
        return _package_from_network(request, name, network, weights, package, notify)


def package_from_file(request: AddRequest, name: str, file: Path, package: Path, notify: Notify) -> ParityReport:
    """Write the package of a checkpoint or a TorchScript module whose architecture is known.

    Raises:
        CardError: the operator's card is not valid.
        StoreError: the file cannot be read, nobody knows its architecture, or the weights do not fit that.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = WeightsFile(_readable(file, Path(folder)), file.name)
        return _package_from_weights(request, name, weights, package, notify)


def package_from_mar(request: AddRequest, name: str, file: Path, package: Path, notify: Notify) -> ParityReport:
    """Write the package of a classifier in an archive of TorchServe, with its labels and its handler's preprocessing.

    Raises:
        CardError: the operator's card is not valid.
        StoreError: as `read_mar` and `package_from_file`.
    """
    with tempfile.TemporaryDirectory() as folder:
        archived = read_mar(file, Path(folder))
        notify(f"{file.name}: {archived.name}, pictures as TorchServe's image_classifier transforms them")
        if file_kind(archived.weights) == "onnx":
            facts = read_graph(archived.weights)
            entry = {**facts.input, **CLASSIFIER_INPUT}
            model = PictureModel(file.name, entry, facts.outputs, archived.labels or facts.labels)
            return package_from_graph(request, name, model, lambda card: archived.weights, package, notify)
        readable = _readable(archived.weights, Path(folder))
        weights = WeightsFile(readable, archived.name, CLASSIFIER_INPUT, archived.labels)
        return _package_from_weights(request, name, weights, package, notify)


def _readable(file: Path, folder: Path) -> Path:
    """Return a checkpoint's own file; of a TorchScript module a new one with its weights."""
    kind = file_kind(file)
    if kind == "torchscript":
        save_file(read_torchscript(file), folder / "torchscript.safetensors")
        return folder / "torchscript.safetensors"
    if kind != "checkpoint":
        raise StoreError(f"{file}: is no checkpoint of PyTorch. Save `model.state_dict()` with torch.save.")
    return file


def _package_from_weights(
    request: AddRequest, name: str, weights: WeightsFile, package: Path, notify: Notify
) -> ParityReport:
    architecture = request.architecture or _own_architecture(weights)
    cards: dict[str, str] = {
        card.architecture: key for key, card in bundled_cards().items() if isinstance(card, ImageCard | RowCard)
    }
    if architecture == "onnx":
        raise StoreError(f"{weights.name}: a checkpoint is of an architecture; onnx is that of a graph.")
    if (bundled := cards.get(architecture)) is not None:
        return _package_of_ours(request, name, bundled, weights, package, notify)
    hub, _, network_name = architecture.rpartition(":")
    if hub and hub not in HUBS:
        raise StoreError(f"{architecture}: an architecture is one of ours, timm:NAME or torchvision:NAME.")
    build = torchvision_network if hub == "torchvision" else timm_network
    network = build(network_name, Checkpoint(weights.file, weights.name, is_own=True))
    return _package_from_network(request, name, network, weights, package, notify)


def _own_architecture(weights: WeightsFile) -> str:
    """Return the architecture that a checkpoint or the name of its file says.

    Raises:
        StoreError: neither does; the message lists what could be said.
    """
    import timm

    architecture = read_checkpoint(weights.file).metadata.get("arch")
    if isinstance(architecture, str) and timm.is_model(architecture):
        return architecture
    if (published := torchvision_name(weights.name)) is not None:
        return f"torchvision:{published}"
    ours = [card.architecture for card in bundled_cards().values() if isinstance(card, ImageCard)]
    raise StoreError(
        f"{weights.name}: nothing says which network these weights are of. Say it with --architecture: "
        f"{', '.join(name for name in ours if name != 'onnx')}, what timm calls it (resnet50), or torchvision:resnet50."
    )


def _package_from_network(
    request: AddRequest, name: str, network: Network, weights: WeightsFile | None, package: Path, notify: Notify
) -> ParityReport:
    """Export a network at the size that its card says, and compare the graph with it."""
    served_as = weights.input if weights else None
    own = f" with weights of your own ({weights.name})" if weights and network.is_own else ""
    stated = bool(request.input) or network.is_own or served_as is not None
    model = PictureModel(
        origin=f"{network.origin}{own}",
        input=network.input if served_as is None else served_as,
        outputs=network.outputs,
        labels=(weights.labels if weights else None) or network.labels,
        is_doubted=network.is_own and served_as is None,
        data=f"{network.origin}{own}",
        licence=network.licence,
        reference=Reference(pytorch_name(), lambda batch: _run(network.module, batch)),
        transform=None if stated else network.transform,
        parameters=sum(parameter.numel() for parameter in network.module.parameters()),
    )
    with tempfile.TemporaryDirectory() as folder:

        def export(card: ImageCard) -> Path:
            graph = Path(folder) / GRAPH
            graph.write_bytes(_exported(network.module, card, notify))
            return graph

        return package_from_graph(request, name, model, export, package, notify)


def _exported(module: Any, card: ImageCard, notify: Notify) -> bytes:
    """Return a network as an ONNX file, with a batch that is dynamic, or where that cannot be traced fixed at 1."""
    if card.input.layout != "nchw":
        raise StoreError(f'{card.name}: PyTorch\'s networks take the layout "nchw".')
    problem: Exception | None = None
    for fixed in (False, True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's exporter warns of itself
                image = torch.zeros(1 if fixed else 2, *card.input.shape)
                model = trace_to_onnx(module, {"image": image}, ["logits"], fixed_batch=fixed)
        except Exception as error:
            problem = error
        else:
            if fixed:
                notify(f"{card.name}: PyTorch cannot export it for batches, so it is served without batching.")
            content: bytes = model.SerializeToString(deterministic=True)
            return content
    raise StoreError(
        f"{card.name}: PyTorch cannot export this network for inputs of {list(card.input.shape)} "
        f"({first_line(problem or ValueError())})."
    )


def _run(module: Any, batch: Batch) -> Logits:
    with torch.inference_mode():
        parts = [
            module(torch.from_numpy(part)).numpy() for part in np.array_split(batch, -(-len(batch) // REFERENCE_BATCH))
        ]
    return np.concatenate(parts).astype(np.float32)


def _package_of_ours(
    request: AddRequest, name: str, bundled: str, weights: WeightsFile, package: Path, notify: Notify
) -> ParityReport:
    """Write the package of a checkpoint of an architecture that cards know, with heatmaps."""
    card_file = package_folder(bundled) / "card.toml"
    card = read_card(card_file)
    if not isinstance(card, ImageCard):
        raise StoreError(
            f"{card.architecture} takes rows, of which no weight tells the names: use `vitrine models import {bundled} "
            "--weights FILE --card FILE`, or bring the model as an ONNX graph."
        )
    usual = {key: value for key, value in card_input(card_file.read_text("utf-8")).items() if key in _TAKEN_OVER}
    model = PictureModel(
        origin=weights.name,
        input={**usual, **(weights.input or {})},
        outputs=None,
        labels=weights.labels,
        is_doubted=weights.input is None,
        sections={"explain": card.explain.model_dump()} if card.explain else {},
        architecture=card.architecture,
    )
    text = picture_card_text(request, name, model, notify)
    (package / "card.toml").write_text(text, "utf-8")
    goldens = golden_pictures(request.examples)
    return from_checkpoint(package / "card.toml", weights.file, goldens, package, notify)


_TAKEN_OVER = ("size", "resize", "resize_to", "crop_pct", "library", "kernel", "mean", "std")
"""What a checkpoint of an architecture of ours has of the bundled card: not CLAHE, nor how sharpness is measured."""
