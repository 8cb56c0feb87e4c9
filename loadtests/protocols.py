"""`make bench-protocols`: the same requests of the Open Inference Protocol over HTTP and over gRPC, in turns.

Kidney-stone gets one encoded picture, the cheapest model one row as a binary tensor. Clients are threads of a few
processes, each with a connection of its own, and send the next request when the last is answered.
"""

import http.client
import json
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import NamedTuple

import click
import grpc
import numpy as np
from tqdm import tqdm
from tritonclient.grpc import service_pb2

from api.oip.messages import HEADER
from loadtests.bench import payloads
from loadtests.server import ROOT, bentoml_serve, free_port, running
from models.card import RowCard
from models.store import find
from runners.machine import conditions

IMAGES, ROWS = "kidney-stone", "churn"
CLIENTS = (1, 16, 64)
PROCESSES = 2
"""Of clients; one alone would be the limit with the cheapest model."""


class Load(NamedTuple):
    """Answers a second, and the median of their latencies in milliseconds."""

    rate: float
    p50_ms: float


def _http(port: int, model: str, payload: bytes) -> Callable[[], None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if model == IMAGES:
        body, headers = payload, {HEADER: "0"}
    else:
        tensor = {"name": "rows", "datatype": "FP32", "shape": [1, len(payload) // 4]}
        head = json.dumps(
            {
                "inputs": [{**tensor, "parameters": {"binary_data_size": len(payload)}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        body, headers = head + payload, {HEADER: str(len(head))}

    def call() -> None:
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer[:200]!r}")

    return call


def _grpc(port: int, model: str, payload: bytes) -> Callable[[], None]:
    # Without it the threads of a process would share one connection.
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    request = service_pb2.ModelInferRequest(model_name=model)
    if model == IMAGES:
        request.inputs.add(name="image", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(payload).to_bytes(4, "little") + payload)
    else:
        request.inputs.add(name="rows", datatype="FP32", shape=[1, len(payload) // 4])
        request.raw_input_contents.append(payload)
    remote = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        service_pb2.ModelInferRequest.SerializeToString,
        service_pb2.ModelInferResponse.FromString,
    )

    def call() -> None:
        remote(request, timeout=60)

    return call


WAYS: dict[str, Callable[[int, str, bytes], Callable[[], None]]] = {"HTTP": _http, "gRPC": _grpc}


def _threads(
    way: str, port: int, model: str, payload: bytes, clients: int, seconds: float
) -> tuple[list[float], float]:
    """The latencies of every answer, and how long it all took, in seconds."""
    found: list[list[float]] = [[] for _ in range(clients)]
    failed: list[BaseException] = []
    began = time.perf_counter()
    stop = began + seconds

    def loop(own: list[float]) -> None:
        try:
            call = WAYS[way](port, model, payload)
            while (started := time.perf_counter()) < stop:
                call()
                own.append(time.perf_counter() - started)
        except Exception as error:
            failed.append(error)

    pool = [threading.Thread(target=loop, args=(each,)) for each in found]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    if failed:
        raise RuntimeError(f"{way}, {clients} clients: {failed[0]}")
    return [latency for each in found for latency in each], time.perf_counter() - began


def load(way: str, port: int, model: str, payload: bytes, clients: int, seconds: float) -> Load:
    """Ask with that many clients, from processes of their own."""
    processes = min(PROCESSES, clients)
    shares = [clients // processes + (index < clients % processes) for index in range(processes)]
    with get_context("spawn").Pool(processes) as pool:
        asked = [(way, port, model, payload, share, seconds) for share in shares]
        done = pool.starmap(_threads, asked, chunksize=1)
    rate = sum(len(latencies) / took for latencies, took in done)
    return Load(rate, statistics.median(latency for latencies, _ in done for latency in latencies) * 1e3)


@click.command()
@click.option("--seconds", default=6.0, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; medians are printed.")
def bench(seconds: float, rounds: int) -> None:
    """Requests a second and median latency of both protocols, side by side."""
    card = find(ROWS).card
    if not isinstance(card, RowCard):
        raise click.ClickException(f"{ROWS} takes no rows")
    row = np.array([each.example for each in card.input.features], np.float32).tobytes()
    port, grpc_port = free_port(), free_port()
    settings = {"VITRINE_GRPC_PORT": str(grpc_port), "VITRINE_EXPLAIN": "false"}
    ports, found = {"HTTP": port, "gRPC": grpc_port}, dict[tuple[str, int, str], list[Load]]()
    with running(bentoml_serve(port), ROOT, port, 120, settings):
        plan = [(model, clients) for model in (IMAGES, ROWS) for clients in CLIENTS]
        picture = payloads(1)[0]
        for way in WAYS:
            load(way, ports[way], ROWS, row, 4, min(2.0, seconds))
        for _ in tqdm(range(rounds), desc="rounds"):
            for model, clients in plan:
                for way in WAYS:
                    payload = picture if model == IMAGES else row
                    one = load(way, ports[way], model, payload, clients, seconds)
                    found.setdefault((model, clients, way), []).append(one)
    click.echo(conditions())
    click.echo(f"{rounds} rounds of {seconds:g} s, median; grpcio {grpc.__version__}, {PROCESSES} client processes")
    click.echo(
        f"{'model':>14} {'clients':>8} {'HTTP/s':>9} {'gRPC/s':>9} {'HTTP p50':>10} {'gRPC p50':>10} {'gRPC/HTTP':>10}"
    )
    for model, clients in plan:
        over = {way: found[model, clients, way] for way in WAYS}
        rates = [statistics.median(each.rate for each in over[way]) for way in WAYS]
        p50s = [statistics.median(each.p50_ms for each in over[way]) for way in WAYS]
        ratio = statistics.median(b.rate / a.rate for a, b in zip(over["HTTP"], over["gRPC"], strict=True))
        said = [f"{rate:9.1f}" for rate in rates] + [f"{p50:7.2f} ms" for p50 in p50s]
        click.echo(f"{model:>14} {clients:>8} {' '.join(said)} {ratio:10.2f}")


if __name__ == "__main__":
    bench()
