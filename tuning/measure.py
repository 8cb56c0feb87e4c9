"""Measures plans of one stored model: the real line, backend and Runner, in this process."""

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
from runners.plan import CoreShare, CpuPlan
from runners.runner import Runner
from serving.backend import device_of, new_backend
from serving.lanes import runner_of
from serving.loaded_model import RunnerOptions
from serving.pipeline import line_of
from tuning.search import Latencies

FEWEST, MOST_S = 300, 5.0
"""A probe has at least so many arrivals, unless that would take more than so many times its length."""
KEPT = 2
"""Backends that stay loaded: the default's and another's."""
STUCK_S = 120.0

Submit = Callable[[Any], "Future[Any]"]


def schedule(rate: float, arrivals: int, seed: int) -> npt.NDArray[np.float64]:
    """Seconds from now at which requests are due: a Poisson process.

    The draws are those of the seed whatever the rate, so two rates differ by nothing but their pace.
    """
    return np.cumsum(np.random.default_rng(seed).standard_exponential(arrivals)) / rate


def open_loop(submit: Submit, payloads: Iterator[Any], due_s: npt.NDArray[np.float64]) -> Latencies:
    """Submit each payload when it is due, whatever became of the others.

    A generator that is late delays the request, not its clock: latency counts from the moment that it was due.
    """
    latencies = np.full(len(due_s), np.inf)
    settled = threading.Semaphore(0)
    started = time.monotonic()

    def answered(index: int, future: "Future[Any]") -> None:
        if future.exception() is None:
            latencies[index] = (time.monotonic() - started - due_s[index]) * 1e3
        settled.release()

    for index, due in enumerate(due_s):
        if (early := started + due - time.monotonic()) > 0:
            time.sleep(early)
        try:
            submit(next(payloads)).add_done_callback(partial(answered, index))
        except VitrineError:  # refused: its latency stays infinite
            settled.release()
    deadline = time.monotonic() + STUCK_S
    for _ in due_s:
        settled.acquire(timeout=max(0.0, deadline - time.monotonic()))
    return latencies.copy()


def closed_loop(submit: Submit, payloads: Iterator[Any], waiting: int, seconds: float) -> float:
    """Requests answered a second while `waiting` of them are always there, after a fifth of the time to warm up.

    Goes on for up to ten times as long until each of those has had its turn four times; longer only for a first answer.

    Raises:
        StoreError: not one was answered.
    """
    free, answers = threading.Semaphore(waiting), list[bool]()

    def answered(future: "Future[Any]") -> None:
        answers.append(future.exception() is None)
        free.release()

    began = now = time.monotonic()
    first, before = began, 0
    while (passed := now - began) < seconds or (
        len(answers) - before < 4 * waiting and passed < (10 * seconds if len(answers) > before else STUCK_S)
    ):
        if passed < seconds / 5:
            first, before = now, len(answers)
        if free.acquire(timeout=0.05):
            submit(next(payloads)).add_done_callback(answered)
        now = time.monotonic()
    right = sum(answers[before:])
    for _ in range(waiting):
        free.acquire(timeout=STUCK_S)
    if not right:
        raise StoreError("Not one request was answered while the machine was saturated; the log says why.")
    return right / (now - first)


class Trial:
    """The world in which the plans of one stored model are measured. Close it.

    Args:
        stored: the model.
        options: what an operator set; a plan is measured with it.
        share: of the cores.
        probe_s: length of a probe; of half of it the other measurements.
    """

    def __init__(self, stored: StoredModel, options: RunnerOptions, share: CoreShare, probe_s: float) -> None:
        self.device = device_of(stored, options.device)
        self._stored, self._share, self._probe_s = stored, share, probe_s
        self._queue_size = options.queue_of(stored.card)
        self._line = line_of(stored.card)
        goldens, _ = read_goldens(stored.path)
        self._payloads = cycle([self._line.golden(golden.data) for golden in goldens])
        backend, self.default = new_backend(stored, self.device, share, options.over)
        self._backends = OrderedDict({self._loaded_for(self.default): backend})
        gc.collect()
        gc.freeze()  # as serving does

    def close(self) -> None:
        """Release every backend."""
        gc.unfreeze()
        while self._backends:
            self._backends.popitem()[1].close()

    def alone(self, layout: CpuPlan) -> Latencies:
        """See `World`; up to 50, the first two left out."""
        with self._runner(layout) as runner:
            began, took = time.monotonic(), list[float]()
            for number in count():
                if number == 52 or (number >= 7 and time.monotonic() - began > self._probe_s / 4):
                    break
                started = time.monotonic()
                runner.submit(next(self._payloads)).result(STUCK_S)
                took.append((time.monotonic() - started) * 1e3)
        return np.array(took[2:])

    def saturation(self, layout: CpuPlan) -> float:
        """See `World`."""
        waiting = min(self._queue_size, 2 * layout.lanes * layout.max_batch)
        with self._runner(layout) as runner:
            return closed_loop(runner.submit, self._payloads, waiting, self._probe_s / 2)

    def latencies(self, layout: CpuPlan, rate: float, seed: int) -> Latencies:
        """See `World`; a tenth of the arrivals comes before those that count."""
        arrivals = self._arrivals(rate)
        early = arrivals // 10
        with self._runner(layout) as runner:
            return open_loop(runner.submit, self._payloads, schedule(rate, early + arrivals, seed))[early:]

    def lasts_s(self, rate: float) -> float:
        """How long `latencies` takes at a rate, the early arrivals included."""
        return 1.1 * self._arrivals(rate) / rate

    def _arrivals(self, rate: float) -> int:
        return round(min(max(FEWEST, rate * self._probe_s), max(30, MOST_S * self._probe_s * rate)))

    @contextmanager
    def _runner(self, layout: CpuPlan) -> Iterator[Runner[Any, Any, Any]]:
        run = partial(self._line.run, self._backend(layout))
        runner = runner_of(self._stored.card.name, self._line, run, layout, self._queue_size, self._share)
        try:
            yield runner
        finally:
            runner.close(STUCK_S)

    def _backend(self, layout: CpuPlan) -> Backend:
        key = self._loaded_for(layout)
        if key not in self._backends:
            while len(self._backends) >= KEPT:
                self._backends.popitem(last=False)[1].close()
            self._backends[key], _ = new_backend(self._stored, self.device, self._share, lambda planned: layout)
        self._backends.move_to_end(key)
        return self._backends[key]

    def _loaded_for(self, layout: CpuPlan) -> tuple[int, ...]:
        """What a backend is loaded for: on a CPU the sessions' threads, else the largest batch."""
        return layout.widths if self.device == "cpu" else (layout.max_batch,)
