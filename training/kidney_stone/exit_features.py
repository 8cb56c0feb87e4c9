"""What the shipped network computes for phantoms at one of its layers, kept in files: the input of an exit head."""

import hashlib
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn
from tqdm import tqdm

from explain.compile import split
from export.graph import trace_to_onnx, use_external_weights
from models.card import ImageCard
from models.checkpoint import load_network, read_checkpoint
from models.package import GRAPH, WEIGHTS, sha256
from models.registry import package_folder
from preprocessing.transform import transform
from runners.cores import available_cores
from training.kidney_stone.data import TRAINING_MIX, resize_mask
from training.kidney_stone.phantom import draw

PACKAGE = package_folder("kidney-stone")


class _FeaturesAndLogits(nn.Module):
    """A network that returns the output of one of its layers beside its logits."""

    def __init__(self, network: Any, layer: str) -> None:
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        self._trunk_and_tail = split(network.stages(), layer)  # a tuple: the parameters are registered above already

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        trunk, tail = self._trunk_and_tail
        features = trunk(image)
        return features, tail(features)


@dataclass(frozen=True)
class PhantomFeatures:
    """What the network computes for phantoms, and their truth.

    Attributes:
        features: output of the layer, shape (n, channels, h, w), float16.
        logits: of the whole network, shape (n, 2), float32.
        masks: where a stone is, shape (n, h / 2, w / 2), bool; an exit head's map has this size too.
        labels: shape (n,), int64.
    """

    features: Tensor
    logits: Tensor
    masks: Tensor
    labels: Tensor


class PhantomTask(NamedTuple):
    """A phantom to draw: with a label, it is drawn as in training, else as in the held-out splits."""

    seed: int
    label: int | None = None


_session: Any = None  # of a worker process


def _open_session(graph: Path) -> None:
    global _session
    cv2.setNumThreads(1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _run_on_phantom(card: ImageCard, task: PhantomTask) -> tuple[Any, ...]:
    """Draw a phantom in a worker process; return its features, logits, mask and label."""
    mix = {} if task.label is None else {"label": task.label, "phase_mix": TRAINING_MIX}
    phantom = draw(task.seed, **mix)  # type: ignore[arg-type]
    features, logits = _session.run(None, {"image": transform(phantom.image, card.input).tensor[None]})
    height, width = ((side + 1) // 2 for side in features.shape[2:])
    mask = resize_mask(phantom.mask, (height, width))
    return features[0].astype(np.float16), logits[0], mask, np.int64(phantom.label)


def compute_features(card: ImageCard, layer: str, tasks: list[PhantomTask], folder: Path) -> PhantomFeatures:
    """Run the shipped network over phantoms, in parallel, or read what an earlier call wrote into `folder`.

    The name of the file follows from weights, input, layer and seeds. Whoever changes how phantoms are drawn has to
    remove the folder.
    """
    key = f"{sha256(PACKAGE / WEIGHTS)} {card.input} {layer} {tasks}"
    cache = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as package:
            graph, network = Path(package) / GRAPH, load_network(card, read_checkpoint(PACKAGE / WEIGHTS).weights)
            module, image = _FeaturesAndLogits(network, layer), torch.zeros(2, 3, *card.input.size)
            model = trace_to_onnx(module, {"image": image}, ["features", "logits"])
            use_external_weights(model, Path(shutil.copy(PACKAGE / WEIGHTS, package)))
            graph.write_bytes(model.SerializeToString())
            with ProcessPoolExecutor(available_cores(), get_context("spawn"), _open_session, (graph,)) as pool:
                rows = pool.map(partial(_run_on_phantom, card), tasks, chunksize=8)
                columns = [np.stack(column) for column in zip(*tqdm(rows, "phantoms", len(tasks)), strict=True)]
        with cache.with_suffix(".part").open("wb") as file:
            np.savez(file, *columns)
        cache.with_suffix(".part").replace(cache)
    with np.load(cache) as arrays:
        return PhantomFeatures(*(torch.from_numpy(arrays[name]) for name in arrays.files))
