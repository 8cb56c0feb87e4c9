"""`make bench-protocols`: the same requests of the Open Inference Protocol over HTTP and over gRPC, in turns.

Kidney-stone gets one encoded picture, the cheapest model one row as a binary tensor. Clients are threads of a few
processes, each with a connection of its own, and send the next request when the last is answered.
"""

import json
import statistics
from collections.abc import Callable
from functools import partial

import click
import grpc
import numpy as np

from api.oip.messages import JSON_LENGTH_HEADER
from loadtests.bench import MODEL, phantoms
from loadtests.clients import Call, HttpClient, call_in_processes
from loadtests.figures import measure_in_turns, measurement_options, ratios
from loadtests.grpc_client import infer_request, model_infer
from loadtests.server import free_port, serving
from models.card import as_row_card
from models.store import find
from runners.machine import conditions

ROWS = "churn"
CLIENTS = (1, 16, 64)
PROCESSES = 2
"""Processes of clients; a single one would be the limit with the cheapest model."""


def _http_call(port: int, model: str, payload: bytes, _index: int) -> Call:
    if model == MODEL:
        body, headers = payload, {JSON_LENGTH_HEADER: "0"}
    else:
        tensor = {"name": "rows", "datatype": "FP32", "shape": [1, len(payload) // 4]}
        message = {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(payload)}}],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(message).encode()
        body, headers = head + payload, {JSON_LENGTH_HEADER: str(len(head))}
    return partial(HttpClient(port).post, f"/v2/models/{model}/infer", body, headers)


def _grpc_call(port: int, model: str, payload: bytes, _index: int) -> Call:
    request = infer_request(model)
    if model == MODEL:
        request.inputs.add(name="image", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(payload).to_bytes(4, "little") + payload)
    else:
        request.inputs.add(name="rows", datatype="FP32", shape=[1, len(payload) // 4])
        request.raw_input_contents.append(payload)
    return partial(model_infer(f"127.0.0.1:{port}"), request, timeout=60)


NEW_CALL: dict[str, Callable[[int, str, bytes, int], Call]] = {"HTTP": _http_call, "gRPC": _grpc_call}


@click.command()
@measurement_options(seconds=6.0, rounds=3)
def bench(seconds: float, rounds: int) -> None:
    """Requests a second and median latency of both protocols, side by side."""
    features = as_row_card(find(ROWS).card).input.features
    row = np.array([feature.example for feature in features], np.float32).tobytes()
    payloads = {MODEL: phantoms(1)[0], ROWS: row}
    ports = {"HTTP": free_port(), "gRPC": free_port()}
    cases = [(model, clients) for model in payloads for clients in CLIENTS]
    measurements = {
        (model, clients, protocol): partial(
            call_in_processes, partial(NEW_CALL[protocol], port, model, payloads[model]), clients, seconds, PROCESSES
        )
        for model, clients in cases
        for protocol, port in ports.items()
    }
    with serving(ports["HTTP"], {"VITRINE_GRPC_PORT": str(ports["gRPC"]), "VITRINE_EXPLAIN": "false"}):
        for protocol, port in ports.items():
            call_in_processes(partial(NEW_CALL[protocol], port, ROWS, row), 4, min(2.0, seconds), PROCESSES)
        loads = measure_in_turns(measurements, rounds)
    click.echo(conditions())
    click.echo(f"{rounds} rounds of {seconds:g} s, median; grpcio {grpc.__version__}, {PROCESSES} client processes")
    click.echo(
        f"{'model':>14} {'clients':>8} {'HTTP/s':>9} {'gRPC/s':>9} {'HTTP p50':>10} {'gRPC p50':>10} {'gRPC/HTTP':>10}"
    )
    for model, clients in cases:
        rates = {protocol: [measured.rate for measured in loads[model, clients, protocol]] for protocol in ports}
        p50s_ms = [statistics.median(measured.p50_ms for measured in loads[model, clients, name]) for name in ports]
        cells = [f"{statistics.median(values):9.1f}" for values in rates.values()]
        cells += [f"{p50_ms:7.2f} ms" for p50_ms in p50s_ms]
        ratio = statistics.median(ratios(rates["gRPC"], rates["HTTP"]))
        click.echo(f"{model:>14} {clients:>8} {' '.join(cells)} {ratio:10.2f}")


if __name__ == "__main__":
    bench()
