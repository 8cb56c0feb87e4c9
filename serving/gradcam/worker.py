"""The inside of the Grad-CAM process: a pipeline from an encoded picture to a finished explanation."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from errors import NoExplanation, StoreError
from explain.base import NO_CONTRAST, PREDICTED, Explainer
from explain.onnx import OnnxExplainer
from models.card import ImageCard
from models.goldens import TOLERANCE
from models.package import WEIGHTS, StoredModel
from postprocessing.classification import classify
from preprocessing.prepare import Prepare, prepare
from runners.admission import Work
from runners.cores import CoreShare
from runners.plan import make_plan
from runners.stats import EXPLAIN
from serving.gradcam.drawing import PreparedPicture, draw, is_slow_to_draw, prepare_to_draw
from serving.gradcam.wire import ExplainedPicture, Explanation, ExplanationRequest
from serving.loading import LoadedPipeline, Role, device_for
from serving.options import RunnerOptions
from serving.predictions import most_probable

logger = logging.getLogger("vitrine.explain")

MOST_IN_RUN, MOST_IN_RUN_ON_CPU = 32, 4
"""The most tensors of one run of the explainer: pictures, each as often as it has classes to explain. On a CPU a larger
batch takes more memory and more time an item: of B4 10 take 180 MB and a third more time."""


class ExplanationPipeline:
    """Turns an encoded picture into its logits and a map, drawn as the request asks.

    Args:
        card: the model's card.
        explainer: computes logits and maps.
        prepare_slow: decodes and transforms pictures that may take long; None where all are prepared alike.
    """

    def __init__(self, card: ImageCard, explainer: Explainer, prepare_slow: Prepare | None = None) -> None:
        self._card, self._explainer, self._prepare_slow = card, explainer, prepare_slow

    def preprocess(self, payload: ExplanationRequest) -> PreparedPicture:
        """Decode and transform one picture.

        Raises:
            InvalidInput: the picture cannot be used.
            NoExplanation: it is too large to be drawn on, or the explain graph takes no contrast.
        """
        return self._prepared(prepare, payload)

    def is_slow(self, payload: ExplanationRequest) -> bool:
        """Return whether a picture may take long to decode and to draw on."""
        return self._prepare_slow is not None and is_slow_to_draw(self._card, payload)

    def preprocess_slow(self, payload: ExplanationRequest) -> PreparedPicture:
        """Decode and transform one picture that may take long; errors as of `preprocess`, or that it took too long."""
        return self._prepared(self._prepare_slow or prepare, payload)

    def infer(self, batch: Sequence[PreparedPicture]) -> list[ExplainedPicture]:
        """Compute logits and maps, then draw; one result for each picture, with all its classes.

        One run explains the classes that are asked for, another those that follow from the logits of the first.

        Raises:
            RuntimeError: the explainer gave values that are not finite.
        """
        methods = frozenset(item.request.method for item in batch)
        # Where the class follows from the logits, the most probable one is tried.
        first = [(place, target) for place, item in enumerate(batch) for target in self._known(item) or (PREDICTED,)]
        logits = dict[int, Logits]()
        maps = dict[tuple[int, int], npt.NDArray[np.float32]]()
        for place, target, row, values in self._run(batch, first, methods):
            logits.setdefault(place, row)
            maps[place, int(row.argmax()) if target == PREDICTED else target] = values
        classes = [self._classes(item.request, logits[place]) for place, item in enumerate(batch)]
        missing = [
            (place, class_id)
            for place, of_picture in enumerate(classes)
            for class_id in of_picture
            if (place, class_id) not in maps
        ]
        for place, class_id, _, values in self._run(batch, missing, methods):
            maps[place, class_id] = values
        return [
            ExplainedPicture(
                logits[place],
                item.sharpness,
                tuple(self._draw(item, class_id, maps[place, class_id]) for class_id in classes[place]),
            )
            for place, item in enumerate(batch)
        ]

    def count_inferences(self, item: PreparedPicture) -> int:
        """Return how many classes are explained: so many times an item is computed."""
        return max(1, len(item.request.targets), item.request.top)

    def pixels(self, item: PreparedPicture) -> int:
        """Return how many pixels the picture has as it came."""
        return item.area

    def is_evaluation(self, payload: ExplanationRequest) -> bool:
        """Return False: each picture is a client's."""
        return False

    def work(self, payload: ExplanationRequest) -> Work:
        """Return one item, with the bytes that have to be decoded as its size."""
        return Work(1, len(payload.data))

    def is_heavy(self, payload: ExplanationRequest) -> bool:
        """Return True: every picture is decoded, and most are drawn on."""
        return True

    def _prepared(self, prepare_picture: Prepare, request: ExplanationRequest) -> PreparedPicture:
        if request.contrast != NO_CONTRAST and not self._explainer.takes_contrasts:
            raise NoExplanation(
                "contrast: the explain graph of this model was made by an older Vitrine, which knew none. Import or "
                "add the model again."
            )
        return prepare_to_draw(prepare_picture, self._card, request)

    def _run(
        self, batch: Sequence[PreparedPicture], pairs: Sequence[tuple[int, int]], methods: frozenset[str]
    ) -> Iterator[tuple[int, int, Logits, npt.NDArray[np.float32]]]:
        """Yield each pair of a picture's place and a class with the logits and the map of the picture's method.

        Raises:
            RuntimeError: the explainer gave values that are not finite.
        """
        most = MOST_IN_RUN_ON_CPU if self._explainer.device == "cpu" else MOST_IN_RUN
        for start in range(0, len(pairs), most):
            part = pairs[start : start + most]
            items = [batch[place] for place, _ in part]
            targets = np.array([target for _, target in part], np.int64)
            contrasts = np.array([item.request.contrast for item in items], np.int64)
            logits, maps = self._explainer.run(np.stack([item.tensor for item in items]), targets, methods, contrasts)
            chosen = [maps[item.request.method][index] for index, item in enumerate(items)]
            if not np.isfinite(logits).all() or not all(np.isfinite(values).all() for values in chosen):
                raise RuntimeError("the explainer gave values that are not finite")
            for (place, target), row, values in zip(part, logits, chosen, strict=True):
                yield place, target, row, values

    def _known(self, item: PreparedPicture) -> tuple[int, ...]:
        """Return the classes that are explained whatever the logits are."""
        return () if item.request.top else item.request.targets

    def _classes(self, request: ExplanationRequest, logits: Logits) -> Sequence[int]:
        if request.top:
            return most_probable(logits, request.top, request.contrast)
        # Where a threshold decides, the class that it calls is explained, and not the most probable one.
        return request.targets or (classify(logits, self._card, threshold=request.threshold).class_id,)

    def _draw(self, item: PreparedPicture, target: int, values: npt.NDArray[np.float32]) -> Explanation:
        return Explanation(target, draw(self._card, item, values), values, item.size)


def load_explanation(
    stored: StoredModel, options: RunnerOptions, share: CoreShare, prepare_slow: Prepare | None = None
) -> LoadedPipeline:
    """Load a stored model for explanations.

    PyTorch's autograd explains a model that runs on PyTorch, the compiled graph one that runs on ONNX Runtime, and
    autograd on the CPU one that has no compiled graph.

    Args:
        stored: the model.
        options: what the operator set for every Runner.
        share: the cores of this process.
        prepare_slow: decodes and transforms pictures that may take long; None where all are prepared alike.

    Raises:
        DeviceMissing: the device that the operator asked for is not there.
        StoreError: the model takes no pictures, names no layer, or needs PyTorch, which is not installed.
    """
    card = stored.card
    if not isinstance(card, ImageCard) or card.explain is None:
        raise StoreError(f"{stored.tag}: its card names no layer to explain at.")
    device = device_for(stored, options.device)
    plan = replace(options.override(make_plan(share.available, device=device, takes_images=True)), linger_ms=0.0)
    explainer = load_explainer(stored, device)
    if not explainer.runs_in_parallel:
        plan = replace(plan, lanes=1)
    return LoadedPipeline(
        pipeline=ExplanationPipeline(card, explainer, prepare_slow),
        plan=plan,
        runner_name=f"{card.name}/explain",
        runtime=explainer.runtime,
        device=explainer.device,
        computed_by=f"{type(explainer).__name__} ({explainer.device})",
        golden_payload=lambda data: ExplanationRequest(data, (), "gradcam", "map", 0.0, at_input_size=True),
        golden_tolerance=TOLERANCE,  # a variant's own is wider, but explanations are computed in fp32
        checks_batches=False,  # a batch of all goldens would need memory that no request ever does
        release=explainer.close,
    )


EXPLANATION = Role(
    load=load_explanation,
    loading_detail="loading the explain graph",
    ready_message="%s explains after %.1f s on %s",
    unavailable_message="Explanations of {name} are {state}: {detail}",
    failed_retry_after_s=1,
    logger=logger,
    runner=EXPLAIN,
)
"""The role of the models in the Grad-CAM process."""


def load_explainer(stored: StoredModel, device: str) -> Explainer:
    """Return what explains a model on a device that `device_for` returned.

    Raises:
        StoreError: there is no compiled explain graph and no PyTorch, which could do without one.
    """
    card = stored.card
    if device == "cpu" and stored.explain_graph is not None:
        return OnnxExplainer(stored.explain_graph)
    try:
        from explain.autograd import AutogradExplainer
        from models.checkpoint import load_network, read_checkpoint
    except ImportError as error:
        raise StoreError(
            f"{stored.tag} has no compiled explain graph, and PyTorch, which could do without, is not installed: "
            "install the `torch` extra."
        ) from error
    if not isinstance(card, ImageCard) or card.explain is None:
        raise StoreError(f"{stored.tag}: its card names no layer to explain at.")
    network = load_network(card, read_checkpoint(stored.path / WEIGHTS).weights)
    if device == "cpu":
        logger.warning("%s has no compiled explain graph: autograd explains it, at three times the price.", stored.tag)
    return AutogradExplainer(network, card.explain.layer, device.removeprefix("torch-"))
