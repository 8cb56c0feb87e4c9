"""What the balancer costs: requests a second, the time of a large upload, and the memory of its buffers."""

import asyncio
import contextlib
import re
import statistics
import time
import urllib.request
from concurrent.futures import Executor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import cv2
import numpy as np
import psutil

from deploy.haproxy.balancer import CONFIGURATION, Balancer, balancing
from loadtests.attackers.slow_uploads import upload_slowly
from loadtests.compare import load, wire
from loadtests.compare.load import Load, Target
from loadtests.fleet.replicas import Fleet
from loadtests.processes import memory_bytes
from loadtests.server import free_port

CLIENTS = {"compute-bound": 16, "overhead-bound": 64}
"""Clients of the closed loops, by regime, as in the comparison with other servers."""
UPLOADS, UPLOAD_MB, PAIRS = 200, 25, 8
"""Unfinished uploads that fill buffers; the size of a large picture, and how many times it is sent each way."""
SETTLE_S, HELD_BYTES = 6.0, 200_000
"""Seconds that unfinished uploads go on before the memory is measured, and what each has sent."""
LEAST_BUFFER = 16_384
"""HAProxy's own `tune.bufsize`."""


@dataclass(frozen=True)
class Throughput:
    """Right answers a second to a closed loop, the median of the rounds, each way.

    Attributes:
        model: that was asked.
        clients: of the loop.
        bytes: of a request, on average.
        direct: of one replica without the balancer.
        one: of the same replica through the balancer.
        all: of three replicas through the balancer, on the same cores.
        ratio: median over the rounds of `one` over `direct`.
        p50_direct_ms: median latency without the balancer.
        p50_one_ms: the same through it.
        balancer_ms: processor time of the balancer for one answer.
        replica_ms: that of a replica for one answer, without the balancer.
        decode_ms: of a lone request, the time that decoding takes.
        infer_ms: of the same, the time of the network; both as the replica's `Server-Timing` says.
    """

    model: str
    clients: int
    bytes: int
    direct: float
    one: float
    all: float
    ratio: float
    p50_direct_ms: float
    p50_one_ms: float
    balancer_ms: float
    replica_ms: float
    decode_ms: float
    infer_ms: float


@dataclass(frozen=True)
class Upload:
    """Seconds that a lone large upload takes to be answered, median and range, without the balancer and through it.

    Attributes:
        megabytes: its size.
        direct_s: without the balancer.
        through_s: through it.
        ratio: the median of the pairs' ratios.
        balancer_s: processor time of the balancer for one.
    """

    megabytes: float
    direct_s: float
    through_s: float
    ratio: float
    balancer_s: float


@dataclass(frozen=True)
class Buffers:
    """The balancer's memory in MiB with buffers of one size: at rest, and beside unfinished uploads that fill them."""

    bufsize: int
    uploads: int
    at_rest_mib: float
    beside_mib: float


def throughput(fleet: Fleet, generator: Executor, seconds: float, rounds: int) -> Throughput:
    """Measure each way in every round, so that a machine whose speed drifts moves all of them."""
    clients = CLIENTS[fleet.regime.name]
    ways: dict[str, tuple[Target, tuple[str, ...]]] = {
        "direct": (fleet.direct("r1"), ()),
        "one": (fleet.target(), ("r1",)),
        "all": (fleet.target(), tuple(fleet.replicas)),
    }
    loads: dict[str, list[Load]] = {way: [] for way in ways}
    balancer_s = replica_s = 0.0
    for number in range(rounds):
        for way in [*ways][:: 1 if number % 2 else -1]:
            target, names = ways[way]
            if names:
                fleet.only(*names)
            generator.submit(load.closed, target, clients, 1.0, 0.0).result()
            own_s, theirs_s = fleet.balancer_cpu_s(), fleet.trees["r1"].cpu_s()
            measured = generator.submit(load.closed, target, clients, seconds).result()
            loads[way].append(measured)
            balancer_s += fleet.balancer_cpu_s() - own_s if way == "one" else 0.0
            replica_s += fleet.trees["r1"].cpu_s() - theirs_s if way == "direct" else 0.0
    fleet.only(*fleet.replicas)
    problems = [measured.problem for way in loads.values() for measured in way]
    if wrong := [
        problem for problem in problems if problem and not problem.startswith("429")
    ]:  # a slow machine refuses
        raise RuntimeError(f"{fleet.regime.model}: {wrong[0]}")
    answered = {way: sum(measured.requests - measured.errors for measured in own) for way, own in loads.items()}

    def median(way: str, figure: Literal["rate", "p50_ms"]) -> float:
        return float(statistics.median(getattr(measured, figure) for measured in loads[way]))

    return Throughput(
        fleet.regime.model,
        clients,
        round(statistics.mean(map(len, fleet.target().requests))),
        median("direct", "rate"),
        median("one", "rate"),
        median("all", "rate"),
        statistics.median(one.rate / direct.rate for one, direct in zip(loads["one"], loads["direct"], strict=True)),
        median("direct", "p50_ms"),
        median("one", "p50_ms"),
        1e3 * balancer_s / answered["one"],
        1e3 * replica_s / answered["direct"],
        *_lone_ms(fleet),
    )


def _lone_ms(fleet: Fleet) -> tuple[float, float]:
    """Return the median times of decoding and of the network, in ms, of requests one after the other."""
    replica = fleet.replicas["r1"]
    url = f"http://{replica.address}:{replica.port}/models/{fleet.regime.model}/predict"
    timings = list[dict[str, str]]()
    for payload in fleet.regime.payloads:
        with urllib.request.urlopen(urllib.request.Request(url, payload), timeout=30) as answer:
            timings.append(dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"])))
    decode, infer = (statistics.median(float(timing[name]) for timing in timings) for name in ("decode", "infer"))
    return decode, infer


def large_upload(fleet: Fleet, generator: Executor) -> Upload:
    """Send a large picture without the balancer and through it, in turns."""
    side = round((UPLOAD_MB * 1e6 / 3) ** 0.5)
    picture = cv2.imencode(".bmp", np.full((side, side, 3), 90, np.uint8))[1].tobytes()
    request = wire.write_body(f"/models/{fleet.regime.model}/predict", picture)
    direct = fleet.direct("r1")._replace(requests=[request])
    through = fleet.target()._replace(requests=[request])
    fleet.only("r1")
    pairs, balancer_s = list[tuple[float, float]](), 0.0
    for _ in range(PAIRS + 1):
        own_s = fleet.balancer_cpu_s()
        pairs.append((_seconds(direct, generator), _seconds(through, generator)))
        balancer_s = balancer_s + fleet.balancer_cpu_s() - own_s
    fleet.only(*fleet.replicas)
    direct_s, through_s = zip(*pairs[1:], strict=True)  # the first ones wake what is asleep
    return Upload(
        len(picture) / 1e6,
        statistics.median(direct_s),
        statistics.median(through_s),
        statistics.median(theirs / ours for ours, theirs in pairs[1:]),
        balancer_s / (PAIRS + 1),
    )


def _seconds(target: Target, generator: Executor) -> float:
    exchange: load.Exchange = generator.submit(load.closed_exchanges, target, 1, 0.01).result()[0]
    if exchange.status != 200:
        raise RuntimeError(f"an upload of {UPLOAD_MB} MB got {exchange.status}: {exchange.body[:200]!r}")
    return exchange.took_s


def buffers(fleet: Fleet, bufsize: int) -> Buffers:
    """Fill the buffers of a balancer of its own with uploads that do not end."""
    text = re.sub(r"tune\.bufsize \d+", f"tune.bufsize {bufsize}", CONFIGURATION.read_text("utf-8"))
    with TemporaryDirectory() as folder:
        ports = free_port(), free_port(), free_port()
        with balancing(list(fleet.replicas.values()), Path(folder), ports, text) as balancer:
            time.sleep(1)
            at_rest = _memory_mib(balancer)
            process = get_context("spawn").Process(target=_fill, args=(balancer.port,))
            process.start()
            try:
                time.sleep(SETTLE_S)
                beside = _memory_mib(balancer)
            finally:
                process.kill()
                process.join()
    return Buffers(bufsize, UPLOADS, at_rest, beside)


def _fill(port: int) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            upload_slowly(
                "127.0.0.1", port, clients=UPLOADS, announced=HELD_BYTES + 1000, at_once=HELD_BYTES, interval_s=0.5
            )
        )


def _memory_mib(balancer: Balancer) -> float:
    return memory_bytes(psutil.Process(balancer.process.pid)) / 2**20
