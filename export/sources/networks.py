"""Networks of timm and torchvision with their weights, and what these libraries know of their pictures. Needs PyTorch.

A checkpoint is read without running any code in it.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from errors import StoreError
from export.labels import checked_labels, imagenet_labels
from export.operator_graph import first_line
from export.sources.picture_card import Input
from models.checkpoint import Weights, check_fit, read_checkpoint
from preprocessing.spec import UInt8Image

CROP_MODES = {"center": "short_side", "squash": "stretch", "border": "letterbox"}
"""What a card's `resize` calls the crop modes of timm."""
_SWITCHED = ("googlenet", "inception_v3")
"""Networks of torchvision that change their input by a switch, which their own weights need and no weight tells."""


class Network(NamedTuple):
    """A network with its weights, in evaluation mode.

    Attributes:
        module: gives logits (N, K) of pictures (N, C, h, w).
        origin: what it is, for people.
        input: keys of a card's section `input`, as its library evaluates it.
        outputs: the number of its classes.
        labels: None where nobody knows them.
        is_own: whether the weights are somebody's own, which may have been trained with other pictures' input.
        licence: of the weights; None where it is not known.
        transform: the library's own transform of a picture, (H, W, 3) uint8 RGB to (C, h, w) float32.
    """

    module: Any
    origin: str
    input: Input
    outputs: int
    labels: Sequence[str] | None
    is_own: bool
    licence: str | None
    transform: Callable[[UInt8Image], npt.NDArray[np.float32]]


class Checkpoint(NamedTuple):
    """A file of weights.

    Attributes:
        file: a .safetensors file, or what torch.save wrote.
        name: what its owner calls it.
        is_own: whether it holds somebody's own weights, even where they have as many classes as the library's.
    """

    file: Path
    name: str
    is_own: bool


def timm_network(name: str, checkpoint: Checkpoint | None) -> Network:
    """Return a network of timm's, with a checkpoint's weights or else with those that timm fetches or has in its cache.

    Raises:
        StoreError: timm has no such network, its weights cannot be fetched, or a checkpoint does not fit it.
    """
    import timm
    from timm.data import config as timm_config
    from timm.data.imagenet_info import infer_imagenet_subset
    from timm.data.transforms_factory import create_transform

    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        raise StoreError(f"timm has no model {name!r}.{_nearest(architecture, timm.list_models())}")
    try:
        published_config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(f"{architecture}.*"))
        raise StoreError(f"timm has no weights {name!r}. Known: {known or 'none'}.") from error
    try:
        network: Any = timm.create_model(name, pretrained=checkpoint is None)
    except Exception as error:
        where = _where_timms_weights_are(published_config)
        raise StoreError(f"timm cannot load {name!r} ({first_line(error)}). {where}") from error
    published = network.num_classes
    if checkpoint is not None:
        weights = read_checkpoint(checkpoint.file).weights
        if classes := changed_classes(weights, network.state_dict()):
            network = timm.create_model(name, num_classes=classes)
        _load_into_timms(network, name, weights)
    resolve: Any = timm_config.resolve_model_data_config
    config: dict[str, Any] = resolve(network)
    is_own = checkpoint is not None and (checkpoint.is_own or network.num_classes != published)
    subset = None if is_own else infer_imagenet_subset(network)
    transform: Any = create_transform(**config, is_training=False)
    return Network(
        module=network.eval().requires_grad_(False),
        origin=f"timm's {name}",
        input=_timm_input(config),
        outputs=network.num_classes,
        labels=imagenet_labels(subset) if subset else None,
        is_own=is_own,
        licence=None if is_own else network.pretrained_cfg.get("license"),
        transform=lambda image: np.asarray(transform(Image.fromarray(image)), np.float32),
    )


def torchvision_network(name: str, checkpoint: Checkpoint | None) -> Network:
    """Return a network of torchvision's, likewise.

    Args:
        name: what torchvision calls it, with the name of its weights behind a dot where others than the default are
            meant: `resnet50.IMAGENET1K_V1`.
        checkpoint: weights in its place. A file that has the name of one of torchvision's is taken for that.

    Raises:
        StoreError: torchvision has no such network, its weights cannot be fetched, or a checkpoint does not fit it.
    """
    models = _torchvision_models()
    architecture, _, tag = name.partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        raise StoreError(f"torchvision has no classifier {architecture!r}.{_nearest(architecture, known)}")
    entries = models.get_model_weights(architecture)
    if tag and tag not in entries.__members__:
        raise StoreError(
            f"torchvision's {architecture} has no weights {tag!r}. Known: {', '.join(entries.__members__)}."
        )
    named = next((entry for entry in entries if checkpoint and entry.url.endswith(f"/{checkpoint.name}")), None)
    entry = entries[tag] if tag else named or entries.DEFAULT
    is_own, outputs = False, len(entry.meta["categories"])
    if checkpoint is None:
        network = _fetched(architecture, entry)
    else:
        is_own = named is not entry and (checkpoint.is_own or not tag)
        network, classes = _loaded(architecture, checkpoint, is_own)
        is_own, outputs = is_own or classes is not None, classes or outputs
    transform = entry.transforms()
    return Network(
        module=network.eval().requires_grad_(False),
        origin=f"torchvision's {architecture}" if is_own else f"torchvision's {architecture}.{entry.name}",
        input={
            "size": list(transform.crop_size) * (2 // len(transform.crop_size)),
            "resize": "short_side",
            "resize_to": transform.resize_size[0],
            "kernel": transform.interpolation.value,
            "mean": list(transform.mean),
            "std": list(transform.std),
        },
        outputs=outputs,
        labels=None if is_own else checked_labels(entry.meta["categories"], "torchvision's categories"),
        is_own=is_own,
        licence=None if is_own else entry.meta.get("license"),
        transform=lambda image: np.asarray(transform(Image.fromarray(image)), np.float32),
    )


def torchvision_name(file_name: str) -> str | None:
    """Return which of torchvision's weights have this file name, as `torchvision_network` takes it, None if none."""
    models = _torchvision_models()
    for architecture in models.list_models(module=models):
        for entry in models.get_model_weights(architecture):
            if entry.url.endswith(f"/{file_name}"):
                return f"{architecture}.{entry.name}"
    return None


def changed_classes(weights: Weights, expected: Weights) -> int | None:
    """Return the number of classes of weights for which a published network was given another last layer.

    Args:
        weights: of a checkpoint.
        expected: the published network's.

    Returns:
        None if no layer has another shape, or if those that do agree on no number: then it is another network's.
    """
    pairs = [(weights[name].shape, weight.shape) for name, weight in expected.items() if name in weights]
    differing = [(own, published) for own, published in pairs if own != published]
    if not differing or not all(own and published and own[1:] == published[1:] for own, published in differing):
        return None
    counts = {(int(own[0]), int(published[0])) for own, published in differing}
    return counts.pop()[0] if len(counts) == 1 else None


def _torchvision_models() -> Any:
    from torchvision import models  # type: ignore[import-untyped]

    return models


def _load_into_timms(network: Any, name: str, weights: Weights) -> None:
    """Load weights whose names may be those that timm itself renames when it loads its own."""
    import timm

    expected = network.state_dict()
    if set(weights) != set(expected):
        overlay = {"state_dict": dict(weights), "num_classes": network.num_classes}
        try:
            other = timm.create_model(
                name, pretrained=True, num_classes=network.num_classes, pretrained_cfg_overlay=overlay
            )
            network.load_state_dict(other.state_dict())
            return
        except Exception:  # the check below says what does not fit
            pass
    check_fit(weights, expected, f"timm's {name}")
    network.load_state_dict(weights)


def _loaded(architecture: str, checkpoint: Checkpoint, is_own: bool) -> tuple[Any, int | None]:
    """Return a network of torchvision's with a checkpoint's weights, and the number of its classes if it is another."""
    if architecture in _SWITCHED and is_own:
        raise StoreError(
            f"torchvision's {architecture} has a switch (transform_input) that changes its answers and that no weight "
            "tells. Export your network as an ONNX graph, and add that."
        )
    options = {"transform_input": True, "aux_logits": True, "init_weights": False} if architecture in _SWITCHED else {}
    weights, get_model = read_checkpoint(checkpoint.file).weights, _torchvision_models().get_model
    network: Any = get_model(architecture, weights=None, **options)
    if classes := changed_classes(weights, network.state_dict()):
        network = get_model(architecture, weights=None, num_classes=classes, **options)
    check_fit(weights, network.state_dict(), f"torchvision's {architecture}")
    network.load_state_dict(weights)
    return network, classes


def _fetched(architecture: str, entry: Any) -> Any:
    import torch

    try:
        return _torchvision_models().get_model(architecture, weights=entry, progress=False)
    except Exception as error:
        file = Path(entry.url).name
        raise StoreError(
            f"torchvision cannot fetch {architecture}.{entry.name} ({first_line(error)}). Fetch {entry.url} where "
            f"there is a network, and bring it with --weights {file}, or put it at "
            f"{torch.hub.get_dir()}/checkpoints/{file}."
        ) from error


def _timm_input(config: dict[str, Any]) -> Input:
    channels, height, width = config["input_size"]
    if channels not in (1, 3):
        raise StoreError(f"The network takes {channels} channels; a picture has one or three.")
    crop_mode, mean = config.get("crop_mode") or "center", [float(value) for value in config["mean"]]
    entry: dict[str, Any] = {
        "size": [height, width],
        "resize": CROP_MODES[crop_mode],
        "crop_pct": config["crop_pct"],
        "kernel": config["interpolation"],
        "mean": mean,
        "std": [float(value) for value in config["std"]],
    }
    if crop_mode == "border":
        entry["fill"] = [round(255 * value) for value in mean]
    return entry | ({"channels": "grey"} if channels == 1 else {})


def _where_timms_weights_are(config: Any) -> str:
    """Return what to do where timm's weights cannot be fetched: which file to bring, and how."""
    hub, url = (getattr(config, key, None) for key in ("hf_hub_id", "url"))
    file = getattr(config, "hf_hub_filename", None) or "model.safetensors"
    if hub:
        url = f"https://huggingface.co/{hub}/resolve/main/{file}"
    if not url:
        return "timm publishes no weights for it: bring yours with --weights FILE."
    return (
        f"Fetch {url} where there is a network, and bring it with --weights {Path(url).name}; or use a machine that "
        "has it in the hub's cache (HF_HOME)."
    )


def _nearest(name: str, others: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, others, 3, 0.6)
    return f" Did you mean {' or '.join(matches)}?" if matches else ""
