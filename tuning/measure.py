"""Measurements of the plans of one stored model, by its real pipeline, backend and Runner in this process."""

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import count, cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from backends.base import Backend
from errors import StoreError, VitrineError
from models.goldens import read_goldens
from models.package import StoredModel
from runners.cores import CoreShare
from runners.plan import Plan
from runners.runner import Runner
from serving.loading import device_for, load_backend
from serving.options import RunnerOptions
from serving.pipeline import make_pipeline
from serving.self_check import golden_payload
from tuning.duration import arrivals
from tuning.search import Latencies

KEPT = 2
"""How many backends stay loaded: that of the default plan and one more."""
STUCK_S = 120.0
"""Seconds after which a request that was not answered counts as lost."""

Submit = Callable[[Any], "Future[Any]"]
"""Takes a payload and returns the future of its answer."""


def poisson_arrivals(rate: float, arrivals: int, seed: int) -> npt.NDArray[np.float64]:
    """Return the seconds from now at which requests are due, a Poisson process, shape (arrivals,).

    The same seed gives the same draws at every rate, so two rates differ by nothing but their pace.
    """
    return np.cumsum(np.random.default_rng(seed).standard_exponential(arrivals)) / rate


def open_loop(submit: Submit, payloads: Iterator[Any], due_s: npt.NDArray[np.float64]) -> Latencies:
    """Submit a payload at each due time, whatever became of those before, and return the latencies.

    A request that is submitted late has its latency counted from the moment that it was due.
    """
    latencies = np.full(len(due_s), np.inf)
    settled = threading.Semaphore(0)
    started = time.monotonic()

    def answered(index: int, future: "Future[Any]") -> None:
        if future.exception() is None:
            latencies[index] = (time.monotonic() - started - due_s[index]) * 1e3
        settled.release()

    for index, due in enumerate(due_s):
        if (remaining := started + due - time.monotonic()) > 0:
            time.sleep(remaining)
        try:
            submit(next(payloads)).add_done_callback(partial(answered, index))
        except VitrineError:  # refused: its latency stays infinite
            settled.release()
    deadline = time.monotonic() + STUCK_S
    for _ in due_s:
        settled.acquire(timeout=max(0.0, deadline - time.monotonic()))
    return latencies.copy()


def closed_loop(submit: Submit, payloads: Iterator[Any], waiting: int, seconds: float) -> float:
    """Return the requests answered a second while `waiting` of them are always in flight.

    The first fifth of the time warms up and does not count. The measurement goes on, for up to ten times as long, until
    there are four answers for every request in flight; it waits longer only for a first answer.

    Args:
        submit: takes a payload and returns the future of its answer.
        payloads: what to submit.
        waiting: requests in flight.
        seconds: how long to measure.

    Raises:
        StoreError: not one request was answered.
    """
    free, succeeded = threading.Semaphore(waiting), list[bool]()

    def answered(future: "Future[Any]") -> None:
        succeeded.append(future.exception() is None)
        free.release()

    began = now = warm = time.monotonic()
    before = 0
    while (passed := now - began) < seconds or (
        len(succeeded) - before < 4 * waiting and passed < (10 * seconds if len(succeeded) > before else STUCK_S)
    ):
        if passed < seconds / 5:
            warm, before = now, len(succeeded)
        if free.acquire(timeout=0.05):
            submit(next(payloads)).add_done_callback(answered)
        now = time.monotonic()
    succeeded_warm = sum(succeeded[before:])
    for _ in range(waiting):
        free.acquire(timeout=STUCK_S)
    if not succeeded_warm:
        raise StoreError("Not one request was answered while the machine was saturated; the log says why.")
    return succeeded_warm / (now - warm)


class ModelMeasurer:
    """Measures plans of one stored model in this process; call `close` at the end.

    Args:
        stored: the model.
        options: what an operator set; a plan is measured with it.
        share: the cores of this process, shared by the lanes at work.
        probe_s: seconds of a probe; the other measurements take half as long.
    """

    def __init__(self, stored: StoredModel, options: RunnerOptions, share: CoreShare, probe_s: float) -> None:
        self.device = device_for(stored, options.device)
        self._stored, self._share, self._probe_s = stored, share, probe_s
        goldens, _ = read_goldens(stored.path)
        self._payloads = cycle([golden_payload(stored.card, golden.data) for golden in goldens])
        backend, self.default = load_backend(stored, self.device, share, options.override)
        self._backends = OrderedDict({self._backend_key(self.default): backend})
        gc.collect()
        gc.freeze()  # as serving does

    def close(self) -> None:
        """Release every backend."""
        gc.unfreeze()
        while self._backends:
            self._backends.popitem()[1].close()

    def lone_latencies(self, plan: Plan) -> Latencies:
        """Return the latencies of up to 50 requests one after the other; the two before them do not count."""
        with self._runner(plan) as runner:
            began, latencies = time.monotonic(), list[float]()
            for number in count():
                if number == 52 or (number >= 7 and time.monotonic() - began > self._probe_s / 4):
                    break
                started = time.monotonic()
                runner.submit(next(self._payloads)).result(STUCK_S)
                latencies.append((time.monotonic() - started) * 1e3)
        return np.array(latencies[2:])

    def saturation(self, plan: Plan) -> float:
        """Return the requests answered a second while twice as many are waiting as the lanes can take."""
        waiting = 2 * plan.lanes * plan.max_batch
        with self._runner(plan) as runner:
            return closed_loop(runner.submit, self._payloads, waiting, self._probe_s / 2)

    def latencies(self, plan: Plan, rate: float, seed: int) -> Latencies:
        """Return the latencies of random arrivals; a tenth as many come before those that count, to warm up."""
        counted = arrivals(rate, self._probe_s)
        warm_up = counted // 10
        with self._runner(plan) as runner:
            due_s = poisson_arrivals(rate, warm_up + counted, seed)
            return open_loop(runner.submit, self._payloads, due_s)[warm_up:]

    @contextmanager
    def _runner(self, plan: Plan) -> Iterator[Runner[Any, Any, Any]]:
        card, pipeline = self._stored.card, make_pipeline(self._stored.card, self._backend(plan))
        runner: Runner[Any, Any, Any] = Runner(card.name, pipeline, plan, working=self._share)
        try:
            yield runner
        finally:
            runner.close(STUCK_S)

    def _backend(self, plan: Plan) -> Backend:
        key = self._backend_key(plan)
        if key not in self._backends:
            while len(self._backends) >= KEPT:
                self._backends.popitem(last=False)[1].close()
            self._backends[key], _ = load_backend(self._stored, self.device, self._share, lambda default: plan)
        self._backends.move_to_end(key)
        return self._backends[key]

    def _backend_key(self, plan: Plan) -> tuple[int, ...]:
        """Return what of a plan a backend depends on: on a CPU the sessions' threads, else the largest batch."""
        return plan.widths if self.device == "cpu" else (plan.max_batch,)
