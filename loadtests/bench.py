"""`make bench`: kidney-stone served, beside the raw loop in the same run. Prints its conditions.

Raw is the card's whole path (decode, transform, infer) without a server: one picture after the other with every core
for each run ("raw 1"), and plain threads with one single-threaded run each ("raw best"). Raw and served take turns, so
that a machine whose speed drifts slows both.
"""

import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from tqdm import tqdm

from backends.onnx import OnnxBackend
from loadtests.clients import Call, call_in_threads, from_place, served_rate
from loadtests.figures import encode_jpeg, measure_in_turns, measurement_options, median_and_range, ratios
from loadtests.server import EXPLAINER_LOADS_S, ROOT, free_port, running, serving
from models.card import as_image_card
from models.store import find, installed
from preprocessing.prepare import prepare
from runners.cores import available_cores
from runners.machine import conditions
from training.kidney_stone.data import CALIBRATE
from training.kidney_stone.phantom import draw

MODEL = "kidney-stone"


def phantoms(number: int = 16) -> list[bytes]:
    """Return JPEGs of phantoms that no split of the training uses."""
    return [encode_jpeg(draw(CALIBRATE + index).image) for index in range(number)]


def raw_rate(images: list[bytes], threads: int, session_threads: int, seconds: float) -> float:
    """Return the images a second of the plain loop: `threads` loops over one session of `session_threads`."""
    stored = find(MODEL)
    card = as_image_card(stored.card)
    backend = OnnxBackend(stored.graph, threads=session_threads)

    def new_call(index: int) -> Call:
        own = from_place(images, index)

        def call() -> None:
            backend.run(prepare(next(own), card.limits, card.input).tensor[None])

        return call

    new_call(0)()
    rate = call_in_threads(new_call, threads, seconds).rate
    backend.close()
    return rate


def fresh_clone_s() -> float:
    """Return the seconds from a clean clone's `make serve` to ready, pip included."""
    with tempfile.TemporaryDirectory() as folder:
        clone, port = Path(folder) / "vitrine", free_port()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        with running(["make", "serve"], clone, port, 900) as (_, seconds):
            return seconds


def at_rest(port: int) -> dict[str, tuple[float, float, float]]:
    """Return what each installed model costs before the first request, alone, and all of them together.

    Returns:
        Seconds to ready, resident and proportional MiB of the process tree, by the name of the case.
    """
    names = sorted({stored.card.name for stored in installed()})
    cases = {f"{name} alone": {"VITRINE_MODELS": name, "VITRINE_DEFAULT_MODEL": name} for name in names}
    cases |= {"all models": {}, "all models, without explanations": {"VITRINE_EXPLAIN": "false"}}
    costs = {}
    for case, settings in tqdm(cases.items(), desc="at rest"):
        with serving(port, settings) as (tree, start_s):
            time.sleep(EXPLAINER_LOADS_S)
            costs[case] = (start_s, *tree.memory_mib())
    return costs


@click.command()
@measurement_options(seconds=8.0, rounds=3)
@click.option("--fresh/--no-fresh", default=True, show_default=True, help="Also time `make serve` in a fresh clone.")
def bench(seconds: float, rounds: int, fresh: bool) -> None:
    """Throughput at 1 and 16 clients over raw, start-up, memory."""
    cv2.setNumThreads(1)
    images, port, available = phantoms(), free_port(), available_cores()
    measurements = {
        "raw 1": partial(raw_rate, images, 1, available, seconds),
        "raw best": partial(raw_rate, images, available, 1, seconds),
        "served 1": partial(served_rate, port, images, 1, seconds),
        "served 16": partial(served_rate, port, images, 16, seconds),
    }
    starts_s: list[float] = []
    for _ in range(rounds):
        with serving(port) as (_, start_s):
            starts_s.append(start_s)
    with serving(port) as (tree, start_s):
        starts_s.append(start_s)
        served_rate(port, images, 16, min(3.0, seconds))
        rates = measure_in_turns(measurements, rounds)
        resident, proportional = tree.memory_mib()
    size = int(np.mean([len(image) for image in images]) / 1024)
    click.echo(conditions())
    click.echo(f"{MODEL} {find(MODEL).version}, JPEGs of {size} KB, {rounds} rounds of {seconds:g} s, median (min-max)")
    for name, values in rates.items():
        click.echo(f"{name:>10}: {median_and_range(values, ' images/s', 6)}")
    for ours, theirs in (("served 16", "raw best"), ("served 1", "raw 1")):
        click.echo(f"{ours} / {theirs}: {statistics.median(ratios(rates[ours], rates[theirs])):.2f}")
    click.echo(f"`bentoml serve` to ready: {median_and_range(starts_s, ' s')}")
    click.echo(
        f"memory of the process tree after load: {resident:.0f} MiB resident, {proportional:.0f} MiB proportional"
    )
    for case, (start_s, resident, proportional) in at_rest(port).items():
        click.echo(
            f"{case}: ready in {start_s:.1f} s, {resident:.0f} MiB resident, {proportional:.0f} MiB proportional"
        )
    if fresh:
        click.echo(f"`make serve` in a fresh clone to ready: {fresh_clone_s():.0f} s")


if __name__ == "__main__":
    bench()
