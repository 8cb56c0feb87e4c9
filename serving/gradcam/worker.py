"""The Grad-CAM runner's inside: every model that can be explained, and one line from bytes to a finished picture."""

import dataclasses
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from errors import DeviceMissing, NoExplanation, NotFound, StoreError, Unavailable
from explain.base import Explainer
from explain.onnx import OnnxExplainer
from explain.overlay import Output, grey, heatmap, overlay, png
from models.card import ImageCard
from models.goldens import TOLERANCE, read_goldens
from models.package import StoredModel, verify
from postprocessing.interpret import difference, interpret
from preprocessing.decode import decode
from preprocessing.transform import resize, transform
from runners.plan import cores, plan
from runners.runner import Answer, Runner
from runners.stats import RunnerStats
from serving.backend import device_of
from serving.loaded_model import RunnerOptions, State

logger = logging.getLogger("vitrine.explain")

DRAWN_PIXELS, DRAWN_SIDE = 16_000_000, 65_535
"""What is drawn on at its own size; a PNG of noise of 50 megapixels takes 14 s and a gigabyte."""


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
        threshold: instead of the card's, where it decides what is predicted.
    """

    data: bytes
    target: int
    method: str
    output: Output
    alpha: float
    at_input_size: bool
    threshold: float | None = None


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
        if not isinstance(stored.card, ImageCard):
            raise ValueError(f"{stored.tag} takes no pictures")
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
            layout = options.over(plan(self.card, available, device_of(self.stored, options.device)))
            self._explainer, lanes = new_explainer(self.stored, layout.lanes, options.device)
            self.state, self.detail = "checking", "replaying its goldens"
            self._replay(self._explainer)
            self._runner = Runner(
                f"{self.card.name}/explain",
                self._admit,
                self._run,
                lanes=lanes,
                max_batch=layout.max_batch,
                queue_size=options.queue_size,
                decoders=layout.decoders,
            )
            self.state, self.detail = "ready", ""
            logger.info("%s explains on %s", self.stored.tag, self._explainer.device)
        except Exception as error:
            said = isinstance(error, StoreError | DeviceMissing)
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
        height, width = image.shape[:2]
        drawn_on = not ask.at_input_size and ask.output != "map"
        if drawn_on and (height * width > DRAWN_PIXELS or max(height, width) > DRAWN_SIDE):
            raise NoExplanation(
                f"{width}×{height} pixels are too many to draw on (at most {DRAWN_PIXELS:,}, and "
                f"{DRAWN_SIDE:,} on a side). Ask /explain for size=input."
            )
        return _Ready(ask, image, *transform(image, self.card.input))

    def _run(self, items: Sequence[_Ready]) -> list[Explained]:
        if self._explainer is None:
            raise RuntimeError("the explainer is not loaded")
        targets = np.array([item.ask.target for item in items], np.int64)
        methods = frozenset(item.ask.method for item in items)
        batch = np.stack([item.tensor for item in items])
        logits, maps = self._explainer.run(batch, targets, methods)
        said = [self._target(item.ask, row) for item, row in zip(items, logits, strict=True)]
        cams = [maps[item.ask.method][index] for index, item in enumerate(items)]
        # The graph takes the most probable class; where a threshold decides otherwise, that one is explained instead.
        others = [index for index, row in enumerate(logits) if targets[index] < 0 and said[index] != row.argmax()]
        if others:
            again = self._explainer.run(batch[others], np.array([said[index] for index in others]), methods)
            for place, index in enumerate(others):
                cams[index] = again.maps[items[index].ask.method][place]
        if not np.isfinite(logits).all() or not all(np.isfinite(each).all() for each in cams):
            raise RuntimeError("the explainer gave values that are not finite")
        return [self._finish(*each) for each in zip(items, logits, said, cams, strict=True)]

    def _target(self, ask: Ask, logits: npt.NDArray[np.float32]) -> int:
        return interpret(logits, self.card, threshold=ask.threshold).class_id if ask.target < 0 else ask.target

    def _finish(
        self, item: _Ready, logits: npt.NDArray[np.float32], target: int, cam: npt.NDArray[np.float32]
    ) -> Explained:
        ask = item.ask
        image = resize(item.image, self.card.input) if ask.at_input_size else item.image
        height, width = image.shape[:2]
        picture = None
        if ask.output != "map":
            heat = heatmap(cam, (height, width))
            picture = png(grey(heat) if ask.output == "heatmap" else overlay(image, heat, ask.alpha))
        return Explained(logits, target, picture, cam, (width, height), item.sharpness)

    def _replay(self, explainer: Explainer) -> None:
        goldens, tolerance = read_goldens(self.stored.path)
        tolerance = min(tolerance, TOLERANCE)  # a variant's is wider, but it is explained in fp32
        for golden in goldens:
            tensor = transform(decode(golden.data, self.card.limits), self.card.input).tensor
            logits, _ = explainer.run(tensor[None], np.array([-1]), frozenset({"gradcam"}))
            away = float(difference(logits[0], golden.logits, self.card).max())
            if not away <= tolerance:
                raise StoreError(
                    f"{self.stored.tag}: golden {golden.name} is {away:.2e} away from its reference "
                    f"(tolerance {tolerance:g}) in the explain graph. Import the model again."
                )


def new_explainer(stored: StoredModel, lanes: int, wanted: str = "cpu") -> tuple[Explainer, int]:
    """The explainer of a model, and how many lanes may share it.

    PyTorch's autograd where the model runs on PyTorch (`wanted`: see `backends.devices.choose`); else the compiled
    graph; else, where there is none, autograd on the CPU.
    """
    device = device_of(stored, wanted)
    if device == "cpu" and stored.explain_graph is not None:
        return OnnxExplainer(stored.explain_graph), lanes
    try:
        from explain.autograd import AutogradExplainer
        from models.checkpoint import load_network, read_checkpoint
    except ImportError as error:
        raise StoreError(
            f"{stored.tag} has no compiled explain graph, and PyTorch, which could do without, is not installed: "
            "install the `torch` extra."
        ) from error
    if not isinstance(stored.card, ImageCard) or stored.card.explain is None:
        raise StoreError(f"{stored.tag}: its card names no layer to explain at.")
    network = load_network(stored.card, read_checkpoint(stored.path / "weights.safetensors").weights)
    if device == "cpu":
        logger.warning("%s has no compiled explain graph: autograd explains it, at three times the price.", stored.tag)
    return AutogradExplainer(network, stored.card.explain.layer, device.removeprefix("torch-")), 1


class ExplainedModels:
    """Every explainable model of the Grad-CAM process."""

    def __init__(self, stored: Iterable[StoredModel], options: RunnerOptions) -> None:
        self._options = options
        self.models = {each.tag: ExplainedModel(each) for each in stored}
        self._loader = threading.Thread(target=self._load, name="load-explainers", daemon=True)

    def start(self) -> None:
        """Begin loading; returns at once."""
        self._loader.start()

    def get(self, tag: str) -> ExplainedModel:
        """A model by `name:version`; NotFound if it is none of these."""
        if tag not in self.models:
            raise NotFound(f"{tag} has no explanations.")
        return self.models[tag]

    def status(self) -> dict[str, dict[str, object]]:
        """By tag: `state`, `detail` and, once it runs, `stats`."""
        return {
            tag: {
                "state": model.state,
                "detail": model.detail,
                "stats": dataclasses.asdict(stats) if (stats := model.stats()) else None,
            }
            for tag, model in self.models.items()
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
