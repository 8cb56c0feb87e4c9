"""The Grad-CAM runner's inside: every model that can be explained, and one line from bytes to a finished picture."""

import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from errors import NotFound, StoreError, Unavailable
from explain.base import Explainer
from explain.onnx import OnnxExplainer
from explain.overlay import Output, grey, heatmap, overlay, png
from models.goldens import read_goldens
from models.interpret import softmax
from models.package import StoredModel, verify
from preprocessing.decode import decode
from preprocessing.transform import resize, transform
from runners.cpu_plan import cores, plan
from runners.runner import Answer, Runner
from runners.served import RunnerOptions, State
from runners.stats import RunnerStats

logger = logging.getLogger("vitrine.explain")


@dataclass(frozen=True)
class Ask:
    """One picture to be explained.

    Attributes:
        data: the encoded picture.
        target: index of the class to explain, or -1 for the predicted one.
        method: a CAM method.
        output: what to draw, or `map` for the numbers.
        alpha: opacity of an overlay, in [0, 1].
        at_input_size: draw at the card's input size, not at the upload's own.
    """

    data: bytes
    target: int
    method: str
    output: Output
    alpha: float
    at_input_size: bool


class Explained(NamedTuple):
    """What came of an Ask.

    logits: (K,) float32. target: index of the class explained. picture: the PNG, or None where the map was asked for.
    map: (h, w) float32 ≥ 0, as the method gave it. size: width and height of the picture in pixels.
    sharpness: of the upload, where the card measures it.
    """

    logits: npt.NDArray[np.float32]
    target: int
    picture: bytes | None
    map: npt.NDArray[np.float32]
    size: tuple[int, int]
    sharpness: float | None


class _Ready(NamedTuple):
    ask: Ask
    image: npt.NDArray[np.uint8]
    tensor: npt.NDArray[np.float32]
    sharpness: float | None


class ExplainedModel:
    """One model's explain graph and its Runner."""

    def __init__(self, stored: StoredModel) -> None:
        self.card, self.stored = stored.card, stored
        self.state: State = "loading"
        self.detail = "waiting to be loaded"
        self._explainer: Explainer | None = None
        self._runner: Runner[Ask, _Ready, Explained] | None = None

    def submit(self, ask: Ask, deadline: float | None) -> "Future[Answer[Explained]]":
        """Queue one picture; see `Runner.submit`.

        Raises:
            Unavailable: not ready; the message says why.
        """
        if self.state != "ready" or self._runner is None:
            raise Unavailable(f"Explanations of {self.card.name} are {self.state}: {self.detail}")
        return self._runner.submit(ask, deadline)

    def stats(self) -> RunnerStats | None:
        """The Runner's counts; None before it runs."""
        return self._runner.stats() if self._runner else None

    def load(self, options: RunnerOptions, available: int) -> None:
        """Verify the files, load the explainer, compare its logits with the goldens; never raises."""
        try:
            self.detail = "checking its files"
            verify(self.stored)
            self.detail = "loading the explain graph"
            layout = plan(self.card, available, options.max_batch)
            self._explainer, lanes = new_explainer(self.stored, layout.lanes)
            self.state, self.detail = "checking", "replaying its goldens"
            self._replay(self._explainer)
            self._runner = Runner(
                f"{self.card.name}/explain",
                self._admit,
                self._run,
                lanes=lanes,
                max_batch=layout.max_batch,
                queue_size=options.queue_size,
            )
            self.state, self.detail = "ready", ""
            logger.info("%s explains on %s", self.stored.tag, self._explainer.device)
        except Exception as error:
            said = isinstance(error, StoreError)
            what = f"failed while {self.detail} ({type(error).__name__}); the server's log says more"
            self.state, self.detail = "failed", str(error) if said else what
            logger.error("%s: %s", self.stored.tag, self.detail, exc_info=not said)

    def close(self, timeout_s: float) -> bool:
        """Drain the Runner and release the explainer; False if something was stuck."""
        if self.state == "ready":
            self.state, self.detail = "draining", "the server is shutting down"
        drained = self._runner.close(timeout_s) if self._runner else True
        if drained and self._explainer is not None:
            self._explainer.close()
            self._explainer = None
        return drained

    def _admit(self, ask: Ask) -> _Ready:
        image = decode(ask.data, self.card.limits)
        return _Ready(ask, image, *transform(image, self.card.input))

    def _run(self, items: Sequence[_Ready]) -> list[Explained]:
        if self._explainer is None:
            raise RuntimeError("the explainer is not loaded")
        targets = np.array([item.ask.target for item in items], np.int64)
        methods = frozenset(item.ask.method for item in items)
        logits, maps = self._explainer.run(np.stack([item.tensor for item in items]), targets, methods)
        if not np.isfinite(logits).all() or not all(np.isfinite(each).all() for each in maps.values()):
            raise RuntimeError("the explainer gave values that are not finite")
        return [self._finish(item, logits[index], maps[item.ask.method][index]) for index, item in enumerate(items)]

    def _finish(self, item: _Ready, logits: npt.NDArray[np.float32], cam: npt.NDArray[np.float32]) -> Explained:
        ask = item.ask
        target = int(logits.argmax()) if ask.target < 0 else ask.target
        image = resize(item.image, self.card.input) if ask.at_input_size else item.image
        height, width = image.shape[:2]
        picture = None
        if ask.output != "map":
            heat = heatmap(cam, (height, width))
            picture = png(grey(heat) if ask.output == "heatmap" else overlay(image, heat, ask.alpha))
        return Explained(logits, target, picture, cam, (width, height), item.sharpness)

    def _replay(self, explainer: Explainer) -> None:
        goldens, tolerance = read_goldens(self.stored.path)
        for golden in goldens:
            tensor = transform(decode(golden.data, self.card.limits), self.card.input).tensor
            logits, _ = explainer.run(tensor[None], np.array([-1]), frozenset({"gradcam"}))
            away = float(np.abs(softmax(logits[0]) - softmax(golden.logits)).max())
            if not away <= tolerance:
                raise StoreError(
                    f"{self.stored.tag}: golden {golden.name} is {away:.2e} away from its reference in probability "
                    f"(tolerance {tolerance:g}) in the explain graph. Import the model again."
                )


def new_explainer(stored: StoredModel, lanes: int) -> tuple[Explainer, int]:
    """The explainer of a model on the best device there is, and how many lanes may share it.

    PyTorch on CUDA or MPS where it is installed and finds one; else the compiled graph; else, where there is none,
    PyTorch's autograd on the CPU.
    """
    accelerator = _accelerator()
    if accelerator is None and stored.explain_graph is not None:
        return OnnxExplainer(stored.explain_graph), lanes
    from explain.autograd import AutogradExplainer
    from models.export import load_network, read_checkpoint

    if stored.card.explain is None:
        raise StoreError(f"{stored.tag}: its card names no layer to explain at.")
    network = load_network(stored.card, read_checkpoint(stored.path / "weights.safetensors"))
    if accelerator is None:
        logger.warning("%s has no compiled explain graph: autograd explains it, at three times the price.", stored.tag)
    return AutogradExplainer(network, stored.card.explain.layer, accelerator or "cpu"), 1


def _accelerator() -> str | None:
    """`cuda:0` or `mps` where PyTorch can use it; it is not even imported, for 600 MB, where no driver is."""
    if sys.platform != "darwin" and not any(map(os.path.exists, _NVIDIA)):
        return None
    try:
        import torch
    except ImportError:
        return None
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else None


_NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


class ExplainedModels:
    """Every explainable model of the Grad-CAM process."""

    def __init__(self, stored: Iterable[StoredModel], options: RunnerOptions) -> None:
        self._options = options
        self.models = {each.card.name: ExplainedModel(each) for each in stored}
        self._loader = threading.Thread(target=self._load, name="load-explainers", daemon=True)

    def start(self) -> None:
        """Begin loading; returns at once."""
        self._loader.start()

    def get(self, name: str) -> ExplainedModel:
        """A model by name; NotFound if it is none of these."""
        if name not in self.models:
            raise NotFound(f"{name} has no explanations.")
        return self.models[name]

    def status(self) -> dict[str, dict[str, object]]:
        """By model: `state`, `detail` and, once it runs, `stats`."""
        return {
            name: {
                "state": model.state,
                "detail": model.detail,
                "stats": dataclasses.asdict(stats) if (stats := model.stats()) else None,
            }
            for name, model in self.models.items()
        }

    def close(self, timeout_s: float) -> bool:
        """Drain every model within one deadline; False if something was stuck."""
        deadline = time.monotonic() + timeout_s
        if self._loader.is_alive():
            self._loader.join(timeout_s)
        return all([model.close(max(0.0, deadline - time.monotonic())) for model in self.models.values()])  # noqa: C419

    def _load(self) -> None:
        cv2.setNumThreads(1)
        for model in self.models.values():
            model.load(self._options, cores())
