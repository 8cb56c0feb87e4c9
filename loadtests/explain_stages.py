"""Where the processor time of a prediction and of an explanation goes: by stage without a server, by process in one."""

import base64
import contextlib
import json
import pickle
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from typing import Any

import numpy as np
import psutil

from backends.onnx import OnnxBackend
from explain.onnx import OnnxExplainer
from explain.overlay import overlay, png
from loadtests.clients import served_rate
from loadtests.processes import Tree
from models.card import ImageCard, as_image_card
from models.package import StoredModel
from preprocessing.prepare import prepare
from serving.gradcam.heat import picture_heatmap

GRAPH = "graph"
Steps = Mapping[str, Callable[[Any], Any]]
"""By the name of a stage what it makes of what the one before it gave."""
Stages = dict[str, list[float]]
"""By the name of a stage the milliseconds of processor time that it took in each run."""


def timed_stages(stored: StoredModel, images: list[bytes], runs: int) -> tuple[Stages, Stages]:
    """Return the stages of predictions and of explanations, which take turns in a thread of their own, as in a lane."""
    predictions, explanations = Stages(), Stages()

    def work() -> None:
        predict, explain = _stages_of(stored)
        for index, image in enumerate(cycle(images)):
            if index > runs:
                return
            for stages, times in ((predict, predictions), (explain, explanations)):
                value: Any = image
                for name, stage in stages.items():
                    began = time.thread_time()
                    value = stage(value)
                    if index:  # the first run is slower than all others
                        times.setdefault(name, []).append((time.thread_time() - began) * 1e3)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return predictions, explanations


def _stages_of(stored: StoredModel) -> tuple[Steps, Steps]:
    """Return the stages of a prediction and of an explanation, each of which takes what the one before it gave."""
    if stored.explain_graph is None:
        raise ValueError(f"{stored.tag} has no compiled explain graph")
    card: ImageCard = as_image_card(stored.card)
    backend, explainer = OnnxBackend(stored.graph), OnnxExplainer(stored.explain_graph)
    method = card.explain.method if card.explain else ""

    def explained(picture: Any) -> tuple[Any, Any]:
        outputs = explainer.run(picture.tensor[None], np.array([-1]), frozenset({method}))
        return picture.pixels, outputs.maps[method][0]

    def stretched(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        return pair[0], picture_heatmap(pair[1], pair[0].shape[:2], card.input)

    def crossed(data: bytes) -> bytes:
        return bytes(pickle.loads(pickle.dumps({"picture": data}))["picture"])

    predict: Steps = {
        "decode, transform": lambda image: prepare(image, card.limits, card.input).tensor[None],
        GRAPH: backend.run,
    }
    explain: Steps = {
        "decode, transform": lambda image: prepare(image, card.limits, card.input, "original"),
        GRAPH: explained,
        "heatmap": stretched,
        "overlay": lambda pair: overlay(pair[0], pair[1], 0.5),
        "PNG": png,
        "crossing": crossed,
        "JSON": lambda data: json.dumps({"gradcam_heatmap": base64.b64encode(data).decode()}).encode(),
    }
    return predict, explain


def medians(stages: Stages) -> dict[str, float]:
    """Return the median of each stage."""
    return {name: statistics.median(times) for name, times in stages.items()}


def stage_lines(predictions: Stages, explanations: Stages) -> list[str]:
    """Return the stages as lines to print, and what ratio of explanations to predictions they would allow."""
    predict, explain = medians(predictions), medians(explanations)
    lines = []
    for name, stages in (("prediction", predict), ("explanation", explain)):
        listed = ", ".join(f"{stage} {taken:.1f}" for stage, taken in stages.items())
        lines.append(f"processor time of one {name}: {sum(stages.values()):.1f} ms ({listed})")
    graphs, all_stages = predict[GRAPH] / explain[GRAPH], sum(predict.values()) / sum(explain.values())
    lines.append(
        f"explanations / predictions that the graphs alone allow: {graphs:.2f}; with all stages: {all_stages:.2f}"
    )
    return lines


def process_lines(tree: Tree, port: int, images: list[bytes], seconds: float) -> list[str]:
    """Return, as lines to print, what the server's processes take for one answer while 16 clients ask."""
    lines = []
    for name, path in (("prediction", "/predict"), ("explanation", "/explain")):
        before = _cpu_s(tree)
        answers = served_rate(port, images, 16, seconds, path) * seconds
        taken = {kind: 1e3 * (now - before.get(kind, 0.0)) / answers for kind, now in _cpu_s(tree).items()}
        listed = ", ".join(f"{kind} {milliseconds:.1f}" for kind, milliseconds in sorted(taken.items()))
        lines.append(f"processor time of the server for one {name}: {sum(taken.values()):.1f} ms ({listed})")
    return lines


def _cpu_s(tree: Tree) -> dict[str, float]:
    """Return the processor seconds of a server's processes so far, by what they are."""
    spent = dict[str, float]()
    for process, words in _commands(tree):
        kind = "Grad-CAM process" if "gradcam" in words else "worker" if "vitrine" in words else "others"
        with contextlib.suppress(psutil.Error):
            spent[kind] = spent.get(kind, 0.0) + sum(process.cpu_times()[:2])
    return spent


def _commands(tree: Tree) -> Iterator[tuple[psutil.Process, list[str]]]:
    for process in tree.members():
        with contextlib.suppress(psutil.Error):
            yield process, process.cmdline()
