"""`make bench`: kidney-stone served, beside the raw loop in the same run. Prints its conditions.

Raw is the card's whole path (decode, transform, infer) without a server: one picture after the other with every core
for each run ("raw 1"), and plain threads with one single-threaded run each ("raw best"). Raw and served take turns, so
that a machine whose speed drifts slows both.
"""

import http.client
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
import numpy as np
from tqdm import tqdm

from backends.onnx import OnnxBackend
from loadtests.server import ROOT, bentoml_serve, free_port, memory_mib, running
from models.card import read_image_card
from models.store import find, installed
from preprocessing.decode import decode
from preprocessing.transform import transform
from runners.machine import conditions
from runners.plan import cores
from training.kidney_stone.data import CALIBRATE
from training.kidney_stone.phantom import draw

MODEL = "kidney-stone"


def payloads(count: int = 16) -> list[bytes]:
    """JPEGs of phantoms that no split of the training uses."""
    encoded = []
    for index in range(count):
        done, buffer = cv2.imencode(".jpg", draw(CALIBRATE + index).image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        if not done:
            raise RuntimeError("OpenCV could not encode a phantom as JPEG")
        encoded.append(buffer.tobytes())
    return encoded


def _in_threads(work: Callable[[int], None], threads: int, seconds: float) -> float:
    """Calls a second of `work(index)` from that many threads, each as fast as it goes."""
    counts, stop = [0] * threads, time.perf_counter() + seconds

    def loop(own: int) -> None:
        while time.perf_counter() < stop:
            work(own + counts[own])
            counts[own] += 1

    pool = [threading.Thread(target=loop, args=(index,)) for index in range(threads)]
    started = time.perf_counter()
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def raw(images: list[bytes], threads: int, session_threads: int, seconds: float) -> float:
    """Images a second of the plain loop: `threads` loops over one session of `session_threads`."""
    stored = find(MODEL)
    card = read_image_card(stored.path / "card.toml")
    backend = OnnxBackend(stored.graph, threads=session_threads)

    def work(index: int) -> None:
        image = decode(images[index % len(images)], card.limits)
        backend.run(transform(image, card.input).tensor[None])

    work(0)
    rate = _in_threads(work, threads, seconds)
    backend.close()
    return rate


def _client(port: int, images: list[bytes], clients: int, seconds: float, path: str) -> float:
    local = threading.local()

    def work(index: int) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        local.connection.request("POST", path, images[index % len(images)], {"Content-Type": "image/jpeg"})
        response = local.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {body[:200]!r}")

    return _in_threads(work, clients, seconds)


def served(port: int, images: list[bytes], clients: int, seconds: float, path: str = "/predict") -> float:
    """Images a second that the server answers to that many clients, the clients in a process of their own."""
    with get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_client, (port, images, clients, seconds, path)))


def fresh_clone() -> float:
    """Seconds from a clean clone's `make serve` to ready, pip included."""
    with tempfile.TemporaryDirectory() as folder:
        clone, port = Path(folder) / "vitrine", free_port()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        with running(["make", "serve"], clone, port, 900) as (_, seconds):
            return seconds


def at_rest(port: int) -> dict[str, tuple[float, float, float]]:
    """Seconds to ready, resident and proportional MiB of the process tree: each installed model alone, and all."""
    names = sorted({stored.card.name for stored in installed()})
    cases = {f"{name} alone": {"VITRINE_MODELS": name, "VITRINE_DEFAULT_MODEL": name} for name in names}
    cases |= {"all models": {}, "all models, without explanations": {"VITRINE_EXPLAIN": "false"}}
    found = {}
    for case, settings in tqdm(cases.items(), desc="at rest"):
        with running(bentoml_serve(port), ROOT, port, 120, settings) as (pid, took):
            time.sleep(8)  # the Grad-CAM runner loads after the service is ready
            found[case] = (took, *memory_mib(pid))
    return found


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; medians are printed.")
@click.option("--fresh/--no-fresh", default=True, show_default=True, help="Also time `make serve` in a fresh clone.")
def bench(seconds: float, rounds: int, fresh: bool) -> None:
    """Throughput at 1 and 16 clients over raw, start-up, memory."""
    cv2.setNumThreads(1)
    images, port, available = payloads(), free_port(), cores()
    columns: dict[str, list[float]] = {"raw 1": [], "raw best": [], "served 1": [], "served 16": []}
    starts: list[float] = []
    for _ in range(rounds):
        with running(bentoml_serve(port), ROOT, port, 120) as (_pid, took):
            starts.append(took)
    with running(bentoml_serve(port), ROOT, port, 120) as (pid, took):
        starts.append(took)
        served(port, images, 16, min(3.0, seconds))
        for _ in tqdm(range(rounds), desc="rounds"):
            columns["raw 1"].append(raw(images, 1, available, seconds))
            columns["served 1"].append(served(port, images, 1, seconds))
            columns["raw best"].append(raw(images, available, 1, seconds))
            columns["served 16"].append(served(port, images, 16, seconds))
        resident, shared_once = memory_mib(pid)
    size = int(np.mean([len(image) for image in images]) / 1024)
    click.echo(conditions())
    click.echo(f"{MODEL} {find(MODEL).version}, JPEGs of {size} KB, {rounds} rounds of {seconds:g} s, median (min-max)")
    for name, values in columns.items():
        click.echo(f"{name:>10}: {statistics.median(values):6.1f} images/s ({min(values):.1f}-{max(values):.1f})")
    for ours, theirs in (("served 16", "raw best"), ("served 1", "raw 1")):
        ratio = statistics.median(a / b for a, b in zip(columns[ours], columns[theirs], strict=True))
        click.echo(f"{ours} / {theirs}: {ratio:.2f}")
    click.echo(f"`bentoml serve` to ready: {statistics.median(starts):.1f} s ({min(starts):.1f}-{max(starts):.1f})")
    click.echo(
        f"memory of the process tree after load: {resident:.0f} MiB resident, {shared_once:.0f} MiB proportional"
    )
    for case, (took, resident, proportional) in at_rest(port).items():
        click.echo(f"{case}: ready in {took:.1f} s, {resident:.0f} MiB resident, {proportional:.0f} MiB proportional")
    if fresh:
        click.echo(f"`make serve` in a fresh clone to ready: {fresh_clone():.0f} s")


if __name__ == "__main__":
    bench()
