"""The scenarios: a steady load through the balancer, during which something is done to a replica or to all of them."""

import math
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np

from loadtests.compare import load, wire
from loadtests.compare.load import Exchange, Target
from loadtests.compare.raw import answers
from loadtests.fleet.faults import FAULTS
from loadtests.fleet.outcomes import Scenario, scenario
from loadtests.fleet.replicas import Fleet

STEADY, OVERLOAD, CLIENTS = 0.3, 3.0, 16
"""Rates of open loops, as so many times the best of a closed loop of so many clients."""
LARGE_RATE = 2.0
"""Uploads a second that no buffer holds."""
FAULT_AT_S, UNDO_AT_S, LONG_S = 4.0, 12.0, 18.0
"""Seconds from the start of a load to a fault, to what undoes it, and to the end."""
CHUNK_S, QUIET_S = 5.0, 2.0
"""The length of one load of a rolling replacement, and seconds of rest between scenarios."""
OVERLOAD_S = 5.0
LARGE_SIDE = 640
"""The least side, in pixels, of the pictures that no buffer holds: 1.2 MB."""
VICTIM = "r1"


class Faults:
    """Scenarios on one fleet, one after the other; each leaves it as it was.

    Args:
        fleet: the replicas and their balancer.
        generator: runs loads, in a process beside this one.
        beside: runs others at the same time, in another.
        seconds: length of the measurement of the best rate.
    """

    def __init__(self, fleet: Fleet, generator: Executor, beside: Executor, seconds: float) -> None:
        self._fleet, self._generator, self._beside = fleet, generator, beside
        self._target = fleet.target()
        self._large = _larger_than_a_buffer(fleet, generator)
        generator.submit(load.closed, self._target, CLIENTS, seconds, 0.0).result()
        self._best = generator.submit(load.closed, self._target, CLIENTS, seconds).result().rate
        self._rate = STEADY * self._best

    def fault(self, what: str) -> Scenario:
        """Do something to one replica under a steady load, and undo it eight seconds later."""
        fleet, again = self._fleet, self._sent_again()
        loading = self._generator.submit(load.open_exchanges, self._target, self._rate, LONG_S)
        uploading = self._beside.submit(load.open_exchanges, self._large, LARGE_RATE, LONG_S, 1)
        began = time.monotonic()
        time.sleep(FAULT_AT_S)
        undo, fault_at = FAULTS[what](fleet, VICTIM), time.monotonic()
        left_s = fleet.wait_status(VICTIM, "DOWN", UNDO_AT_S - FAULT_AT_S)
        time.sleep(max(0.0, fault_at + UNDO_AT_S - FAULT_AT_S - time.monotonic()))
        undo()
        exchanges, uploads = loading.result(), uploading.result()
        fleet.wait_up(*fleet.replicas)
        time.sleep(QUIET_S)
        return scenario(
            f"one of three {what}",
            fleet.regime.model,
            self._target,
            exchanges,
            fault_at - began,
            left_s=left_s,
            large=(self._large, uploads),
            sent_again=self._sent_again() - again,
        )

    def rolling(self, *, announced: bool) -> Scenario:
        """Replace all replicas, one after the other, by ones that serve the other version, under a steady load.

        Args:
            announced: whether the balancer drains a replica before it gets its SIGTERM.
        """
        fleet, again, exchanges = self._fleet, self._sent_again(), list[Exchange]()
        version = fleet.versions[1 if announced else 0]
        with ThreadPoolExecutor(1) as pool:
            began, replacing = time.monotonic(), pool.submit(self._replace_all, version, announced)
            while not replacing.done():
                since_s = time.monotonic() - began
                chunk = self._generator.submit(load.open_exchanges, self._target, self._rate, CHUNK_S).result()
                exchanges += [exchange._replace(ended_s=exchange.ended_s + since_s) for exchange in chunk]
            replacing.result()
        time.sleep(QUIET_S)
        how = "drained first" if announced else "by SIGTERM alone"
        name, sent_again = f"all three replaced by a new version, {how}", self._sent_again() - again
        result = scenario(name, fleet.regime.model, self._target, exchanges, 0.0, sent_again=sent_again)
        return replace(result, outcome=replace(result.outcome, heal_s=math.nan))

    def overload(self) -> Scenario:
        """Ask for more than the fleet can do; every 429 that a replica gives should be one that a client gets."""
        before, again = self._fleet.statuses().get("429", 0), self._sent_again()
        rate = OVERLOAD * self._best
        exchanges = self._generator.submit(load.open_exchanges, self._target, rate, OVERLOAD_S).result()
        given = self._fleet.statuses().get("429", 0) - before
        name, sent_again = f"{OVERLOAD:.0f} times as much as it can do", self._sent_again() - again
        result = scenario(name, self._fleet.regime.model, self._target, exchanges, 0.0, sent_again=sent_again)
        return replace(result, outcome=replace(result.outcome, heal_s=math.nan), refused_by_replicas=given)

    def _replace_all(self, version: str, announced: bool) -> None:
        fleet = self._fleet
        for name in fleet.replicas:
            if announced:
                fleet.balancer.set_state(name, "drain")
                fleet.wait_idle(name)
            fleet.end(name)
            fleet.start(name, version)
            fleet.wait_ready(name)
            fleet.balancer.set_state(name, "ready")
            fleet.wait_up(name)
            if (served := fleet.served_version(name)) != version:
                raise RuntimeError(f"{name} serves {served}, not {version}")

    def _sent_again(self) -> int:
        return sum(int(row["wretr"]) + int(row["wredis"]) for row in self._fleet.balancer.status().values())


def _larger_than_a_buffer(fleet: Fleet, generator: Executor) -> Target:
    """Return how the model is asked with the same pictures as BMP files, and what is right then."""
    regime = fleet.regime
    payloads = tuple(_bitmap(payload) for payload in regime.payloads[:4])
    expected = generator.submit(answers, regime.package, payloads).result()
    requests = [wire.write_body(f"/models/{regime.model}/predict", payload) for payload in payloads]
    return Target(fleet.balancer.port, requests, expected, wire.read_vitrine)


def _bitmap(picture: bytes) -> bytes:
    """Return a picture as an uncompressed file, at least a megabyte large."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise RuntimeError("OpenCV could not decode a picture of the load")
    scale = max(1.0, LARGE_SIDE / min(pixels.shape[:2]))
    enlarged = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".bmp", enlarged)[1].tobytes()
