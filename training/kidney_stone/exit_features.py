"""What the shipped network computes at one of its layers, kept in files: the input of an exit head."""

import hashlib
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from explain.compile import split
from export.graph import trace_to_onnx, use_external_weights
from models.card import ImageCard
from models.checkpoint import load_network, read_checkpoint
from models.package import GRAPH, WEIGHTS, sha256
from models.registry import package_folder
from runners.cores import available_cores
from training.kidney_stone.dataset import Sample

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
class Features:
    """What the network computes for samples, and their truth.

    Attributes:
        features: output of the layer, shape (n, channels, h, w), float16.
        logits: of the whole network, shape (n, 2), float32.
        masks: 1 where a stone is, else 0, or NaN where nobody knows; shape (n, h / 2, w / 2), float16. An exit head's
            map has this size too.
        labels: shape (n,), int64.
    """

    features: Tensor
    logits: Tensor
    masks: Tensor
    labels: Tensor


class Samples(Protocol):
    """Phantoms or real slices that a worker process makes one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


_session: Any = None  # of a worker process


def _open_session(graph: Path) -> None:
    global _session
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    _session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _run(samples: Samples, index: int) -> tuple[Any, ...]:
    """Make one sample in a worker process; return its features, logits, mask and label."""
    image, mask, label = samples[index]
    features, logits = _session.run(None, {"image": image[None].numpy()})
    height, width = ((side + 1) // 2 for side in features.shape[2:])
    coarse = F.adaptive_max_pool2d(mask[None], (height, width))[0]
    return features[0].astype(np.float16), logits[0], coarse.half().numpy(), label.numpy()


def compute_features(card: ImageCard, layer: str, samples: Samples, name: str, folder: Path) -> Features:
    """Run the shipped network over samples, in parallel, or read what an earlier call wrote into `folder`.

    Args:
        card: the card of the shipped network.
        layer: whose output is wanted.
        samples: what to run it on.
        name: says which samples these are. The name of the file follows from it, and from weights, input and layer;
            whoever changes how samples are made has to remove the folder.
        folder: of the files.
    """
    key = f"{sha256(PACKAGE / WEIGHTS)} {card.input} {layer} {name} {len(samples)}"
    cache = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not cache.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as package:
            graph, network = Path(package) / GRAPH, load_network(card, read_checkpoint(PACKAGE / WEIGHTS).weights)
            module, image = _FeaturesAndLogits(network, layer), torch.zeros(2, *card.input.shape)
            model = trace_to_onnx(module, {"image": image}, ["features", "logits"])
            use_external_weights(model, Path(shutil.copy(PACKAGE / WEIGHTS, package)))
            graph.write_bytes(model.SerializeToString())
            with ProcessPoolExecutor(available_cores(), get_context("spawn"), _open_session, (graph,)) as pool:
                rows = pool.map(partial(_run, samples), range(len(samples)), chunksize=8)
                columns = [np.stack(column) for column in zip(*tqdm(rows, name, len(samples)), strict=True)]
        with cache.with_suffix(".part").open("wb") as file:
            np.savez(file, *columns)
        cache.with_suffix(".part").replace(cache)
    with np.load(cache) as arrays:
        return Features(*(torch.from_numpy(arrays[name]) for name in arrays.files))


def join(*parts: Features) -> Features:
    """Return the features of several sets of samples as one."""
    return Features(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Features)))
