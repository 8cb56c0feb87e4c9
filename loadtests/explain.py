"""`make bench-explain`: what an explanation costs beside a prediction, in the same run. Needs PyTorch.

The graph: one thread, by batch size, for the card's layer and for the last block, and PyTorch's autograd beside them.
The service: explanations a second, overlay and PNG included, over predictions a second; and how a prediction's
latency stands a flood of explanations.
"""

import http.client
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import torch
from tqdm import tqdm

from backends.onnx import OnnxBackend
from explain.autograd import AutogradExplainer
from explain.base import Explainer, Float32Array
from explain.onnx import OnnxExplainer
from export.onnx import export_explain
from loadtests.bench import MODEL, payloads, served
from loadtests.server import ROOT, bentoml_serve, free_port, running
from models.card import Explain, ImageCard, read_image_card
from models.checkpoint import load_network, read_checkpoint
from models.package import WEIGHTS, StoredModel
from models.store import find
from preprocessing.decode import decode
from preprocessing.transform import transform
from runners.machine import conditions

LAST = "backbone.blocks.6"


def graphs(stored: StoredModel, tensors: Float32Array, rounds: int) -> list[str]:
    """Lines: time of an explanation over that of a prediction, single-threaded, taking turns."""
    card = stored.card
    if not isinstance(card, ImageCard) or card.explain is None:
        raise click.ClickException(f"{stored.tag} has no explanations")
    torch.set_num_threads(1)
    network = load_network(card, read_checkpoint(stored.path / WEIGHTS).weights)
    predict = OnnxBackend(stored.graph)
    method = frozenset({card.explain.method})
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(stored.path / WEIGHTS, Path(folder) / WEIGHTS)  # ONNX Runtime follows no link out of a folder
        explainers: dict[str, Explainer] = {}
        for layer in (card.explain.layer, LAST):
            at_layer = card.model_copy(update={"explain": Explain(layer=layer, method=card.explain.method)})
            export_explain(at_layer, network, Path(folder), tensors[:2])
            explainers[f"compiled, {layer}"] = OnnxExplainer(Path(folder) / "explain.onnx")
            explainers[f"autograd, {layer}"] = AutogradExplainer(network, layer)
        for batch in (1, 8):
            few, targets = tensors[:batch], np.full(batch, -1, np.int64)
            works: dict[str, Callable[[], object]] = {"prediction": lambda few=few: predict.run(few)}  # type: ignore[misc]
            for name, explainer in explainers.items():
                works[name] = lambda explainer=explainer, few=few, targets=targets: explainer.run(  # type: ignore[misc]
                    few, targets, method
                )
            times: dict[str, list[float]] = {name: [] for name in works}
            for turn in tqdm(range(rounds + 1), desc=f"batch {batch}"):
                for name, work in works.items():
                    started = time.perf_counter()
                    work()
                    if turn:
                        times[name].append(time.perf_counter() - started)
            for name, each in times.items():
                ratios = [a / b for a, b in zip(each, times["prediction"], strict=True)]
                milliseconds = statistics.median(each) * 1e3 / batch
                cost = statistics.median(ratios)
                lines.append(f"batch {batch}: {name:<32} {milliseconds:6.1f} ms an image, {cost:.2f} predictions")
    return lines


def latency_ms(port: int, image: bytes, seconds: float) -> float:
    """Median latency of one client's predictions."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends:
        started = time.perf_counter()
        connection.request("POST", "/predict", image, {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"a prediction got {response.status}")
        times.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(times) * 1e3


def flooded_ms(port: int, images: list[bytes], seconds: float) -> float:
    """The same while 16 clients ask for explanations without a pause."""
    flood = threading.Thread(target=served, args=(port, images, 16, seconds + 6, "/explain"))
    flood.start()
    time.sleep(4)  # the clients' process has to start
    latency = latency_ms(port, images[0], seconds)
    flood.join()
    return latency


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="Length of one measurement of the service.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of the service; medians are printed.")
@click.option("--turns", default=20, show_default=True, help="Runs of each graph.")
def bench(seconds: float, rounds: int, turns: int) -> None:
    """Explanations over predictions: the graph's time, the service's rate, the latency of predictions in a flood."""
    cv2.setNumThreads(1)
    images, port, stored = payloads(), free_port(), find(MODEL)
    card = read_image_card(stored.path / "card.toml")
    tensors = np.stack([transform(decode(data, card.limits), card.input).tensor for data in images])
    lines = graphs(stored, tensors, turns)
    rates: dict[str, list[float]] = {"/predict": [], "/explain": []}
    alone, flooded = list[float](), list[float]()
    with running(bentoml_serve(port), ROOT, port, 120):
        time.sleep(8)  # the Grad-CAM runner loads after the service is ready
        served(port, images, 16, 3.0, "/explain")
        for _ in tqdm(range(rounds), desc="rounds"):
            for path, each in rates.items():
                each.append(served(port, images, 16, seconds, path))
            alone.append(latency_ms(port, images[0], seconds))
            flooded.append(flooded_ms(port, images, seconds))
    click.echo(conditions())
    click.echo(f"PyTorch {torch.__version__.split('+')[0]}; {stored.tag}; medians")
    for line in lines:
        click.echo(line)
    for path, each in rates.items():
        click.echo(f"16 clients, {path}: {statistics.median(each):.1f}/s ({min(each):.1f}-{max(each):.1f})")
    share = statistics.median(a / b for a, b in zip(rates["/explain"], rates["/predict"], strict=True))
    click.echo(f"explanations / predictions: {share:.2f}")
    slower = statistics.median(a / b for a, b in zip(flooded, alone, strict=True))
    click.echo(f"one client's prediction: {statistics.median(alone):.1f} ms, in a flood of explanations x {slower:.2f}")


if __name__ == "__main__":
    bench()
