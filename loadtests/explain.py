"""`make bench-explain`: what an explanation costs beside a prediction, in the same run. Needs PyTorch.

The graph is timed on one thread, by batch size, for the card's layer and for the last block, with PyTorch's autograd
beside them. The processor time of both is told by stage without a server, and by process in one. Of the service,
explanations a second, overlay and PNG included, are compared with predictions a second, and the latency of predictions
during a flood of explanations with that of predictions alone.
"""

import shutil
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from timeit import timeit

import click
import cv2
import numpy as np
import torch

from backends.onnx import OnnxBackend
from explain.autograd import AutogradExplainer
from explain.base import Explainer, Float32Array
from explain.onnx import OnnxExplainer
from export.onnx import export_explain_graph
from loadtests.bench import MODEL, phantoms
from loadtests.clients import Call, call_in_threads, new_image_call, served_rate
from loadtests.explain_stages import process_lines, stage_lines, timed_stages
from loadtests.figures import measure_in_turns, measurement_options, median_and_range, ratios
from loadtests.server import EXPLAINER_LOADS_S, free_port, serving
from models.card import Explain, ImageCard, as_image_card
from models.checkpoint import load_network, read_checkpoint
from models.package import WEIGHTS, StoredModel
from models.store import find
from preprocessing.prepare import prepare
from runners.machine import conditions

LAST_BLOCK = "backbone.blocks.6"
PATIENT = {"VITRINE_QUEUE_MS": "30000"}
"""Sixteen clients are what is measured, so none of them is sent away on a slow machine."""


def time_graphs(stored: StoredModel, card: ImageCard, tensors: Float32Array, rounds: int) -> list[str]:
    """Time explanations and predictions by turns, single-threaded; return a line to print for each.

    Args:
        stored: the model.
        card: its card.
        tensors: shape (N, 3, H, W), N at least 8.
        rounds: how many times each is run.

    Raises:
        click.ClickException: the model has no explanations.
    """
    if card.explain is None:
        raise click.ClickException(f"{stored.tag} has no explanations")
    torch.set_num_threads(1)
    network = load_network(card, read_checkpoint(stored.path / WEIGHTS).weights)
    backend, methods = OnnxBackend(stored.graph), frozenset({card.explain.method})
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(stored.path / WEIGHTS, Path(folder) / WEIGHTS)  # ONNX Runtime follows no link out of a folder
        explainers: dict[str, Explainer] = {}
        for layer in (card.explain.layer, LAST_BLOCK):
            at_layer = card.model_copy(update={"explain": Explain(layer=layer, method=card.explain.method)})
            export_explain_graph(at_layer, network, Path(folder), tensors[:2])
            explainers[f"compiled, {layer}"] = OnnxExplainer(Path(folder) / "explain.onnx")
            explainers[f"autograd, {layer}"] = AutogradExplainer(network, layer)
        for size in (1, 8):
            batch, targets = tensors[:size], np.full(size, -1, np.int64)
            calls: dict[str, Call] = {"prediction": partial(backend.run, batch)}
            calls |= {name: partial(explainer.run, batch, targets, methods) for name, explainer in explainers.items()}
            for call in calls.values():
                call()  # the first run is slower than all others
            times_s = measure_in_turns({name: partial(timeit, call, number=1) for name, call in calls.items()}, rounds)
            for name, values in times_s.items():
                milliseconds = statistics.median(values) * 1e3 / size
                cost = statistics.median(ratios(values, times_s["prediction"]))
                lines.append(f"batch {size}: {name:<32} {milliseconds:6.1f} ms an image, {cost:.2f} predictions")
    return lines


def lone_latency_ms(port: int, image: bytes, seconds: float) -> float:
    """Return the median latency of one client's predictions."""
    return call_in_threads(partial(new_image_call, port, [image], "/predict"), 1, seconds).p50_ms


def flooded_latency_ms(port: int, images: list[bytes], seconds: float) -> float:
    """Return the same while 16 clients ask for explanations without a pause."""
    flood = threading.Thread(target=served_rate, args=(port, images, 16, seconds + 6, "/explain"))
    flood.start()
    time.sleep(4)  # the clients' process has to start
    latency_ms = lone_latency_ms(port, images[0], seconds)
    flood.join()
    return latency_ms


@click.command()
@measurement_options(seconds=8.0, rounds=3)
@click.option("--turns", default=20, show_default=True, help="Runs of each graph.")
def bench(seconds: float, rounds: int, turns: int) -> None:
    """Explanations over predictions: the graph's time, the service's rate, the latency of predictions in a flood."""
    cv2.setNumThreads(1)
    images, port, stored = phantoms(), free_port(), find(MODEL)
    card = as_image_card(stored.card)
    tensors = np.stack([prepare(image, card.limits, card.input).tensor for image in images])
    lines = time_graphs(stored, card, tensors, turns)
    lines += stage_lines(*timed_stages(stored, images, 3 * turns))
    measurements = {path: partial(served_rate, port, images, 16, seconds, path) for path in ("/predict", "/explain")}
    measurements["alone"] = partial(lone_latency_ms, port, images[0], seconds)
    measurements["flooded"] = partial(flooded_latency_ms, port, images, seconds)
    with serving(port, PATIENT) as (tree, _):
        time.sleep(EXPLAINER_LOADS_S)
        served_rate(port, images, 16, 3.0, "/explain")
        lines += process_lines(tree, port, images, seconds)
        figures = measure_in_turns(measurements, rounds)
    click.echo(conditions())
    click.echo(f"PyTorch {torch.__version__.split('+')[0]}; {stored.tag}; medians")
    for line in lines:
        click.echo(line)
    for path in ("/predict", "/explain"):
        click.echo(f"16 clients, {path}: {median_and_range(figures[path], '/s')}")
    share = statistics.median(ratios(figures["/explain"], figures["/predict"]))
    click.echo(f"explanations / predictions: {share:.2f}")
    alone_ms, slower = (
        statistics.median(figures["alone"]),
        statistics.median(ratios(figures["flooded"], figures["alone"])),
    )
    click.echo(f"one client's prediction: {alone_ms:.1f} ms, in a flood of explanations x {slower:.2f}")


if __name__ == "__main__":
    bench()
