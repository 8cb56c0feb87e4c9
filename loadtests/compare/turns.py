"""A turn of one server in one regime, from its start to its end, and a turn of the raw loop."""

import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.compare import load, raw
from loadtests.compare.load import Load, Target
from loadtests.compare.regimes import Regime
from loadtests.compare.servers import Server
from loadtests.instructions import count_during
from loadtests.processes import Tree, started
from loadtests.server import ROOT, free_port

CLIENTS = (1, 16, 64)
WARM_S, START_S, SCREEN_S = 1.0, 120.0, 1.0
"""Seconds of the warm-up, of the longest start that is waited for, and of one short measurement of a raw split."""
OPEN_SHARE, OPEN_TIMES = 0.7, 3
"""The rate of the open loop as a share of the best closed loop's, and its length as a multiple of theirs."""
LOGS = ROOT / "runs" / "compare" / "logs"
RAW = "raw"


@dataclass(frozen=True)
class Turn:
    """The figures of one turn; `problem` says why there are none."""

    round: int
    regime: str
    name: str
    start_s: float = math.nan
    memory_mib: float = math.nan
    loads: dict[int, Load] = field(default_factory=dict)
    open_loop: Load | None = None
    splits: dict[int, str] = field(default_factory=dict)
    problem: str = ""


def serve(
    server: Server, python: Path, regime: Regime, number: int, seconds: float, cores: int, generator: Executor
) -> Turn:
    """Measure a server in one turn; whatever is wrong with it ends the turn, not the run.

    Args:
        server: to be started and measured.
        python: the interpreter of its environment.
        regime: what it is asked.
        number: of the round; it seeds the open loop.
        seconds: of each closed loop.
        cores: of this machine.
        generator: runs the load, in a process beside this one.
    """
    port = free_port()
    command, settings = server.start(python, port, regime, cores)
    requests = [server.request(regime, payload) for payload in regime.payloads]
    target = Target(port, requests, regime.expected, server.read)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{server.name}-{regime.name}.txt"
    with started(command, settings, ROOT if server.own else None, log) as tree:
        start_s, problem = first_answer(target, tree, generator)
        problem = problem or generator.submit(load.ask, target).result()
        if problem:
            return Turn(number, regime.name, server.name, problem=f"{problem} ({_last_words(log)})")
        generator.submit(load.closed, target, 16, WARM_S, 0.0).result()
        loads = {clients: _closed_loop(tree, target, clients, seconds, generator) for clients in CLIENTS}
        (_, memory_mib), open_loop = tree.memory_mib(), None
        best = max(measured.rate for measured in loads.values())
        if server.own and best:
            open_loop = generator.submit(load.opened, target, OPEN_SHARE * best, OPEN_TIMES * seconds, number).result()
    return Turn(number, regime.name, server.name, start_s, memory_mib, loads, open_loop)


def _closed_loop(tree: Tree, target: Target, clients: int, seconds: float, generator: Executor) -> Load:
    """Return the figures of a closed loop, with the processor time and the instructions that the server took for it."""

    def measure() -> Load:
        measured: Load = generator.submit(load.closed, target, clients, seconds).result()
        return measured

    before = tree.cpu_s()
    measured, instructions = count_during(tree.pids(), measure)
    cpu_s, right = tree.cpu_s() - before, measured.requests - measured.errors
    if not right:
        return measured
    return replace(measured, cpu_ms=1e3 * cpu_s / right, instructions=instructions / right)


def first_answer(target: Target, tree: Tree, generator: Executor) -> tuple[float, str]:
    """Return the seconds from the start to the first right answer, and why there is none (empty if there is)."""
    first = target._replace(requests=target.requests[:1])
    began, problem = time.perf_counter(), "no answer"
    while (took := time.perf_counter() - began) < START_S:
        if tree.process.poll() is not None:
            return took, f"ended with code {tree.process.returncode}"
        if not (problem := generator.submit(load.ask, first).result()):
            return time.perf_counter() - began, ""
        time.sleep(0.05)
    return took, f"no right answer within {START_S:.0f} s: {problem}"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def fastest_splits(regime: Regime, cores: int, executor: Executor) -> list[raw.Split]:
    """Return the two splits of the machine that are fastest in a short measurement of each."""
    measured = [_raw(regime, split, SCREEN_S, executor) for split in raw.splits_for_many(cores)]
    return [fastest.split for fastest in sorted(measured, key=lambda loops: -loops.load.rate)[:2]]


def loop(regime: Regime, number: int, seconds: float, cores: int, splits: list[raw.Split], executor: Executor) -> Turn:
    """Measure the raw loop in one turn: its best time of one payload alone, and its best rate of many.

    Args:
        regime: what is computed.
        number: of the round.
        seconds: of each measurement of many payloads.
        cores: of this machine.
        splits: of the machine, that are measured for many payloads.
        executor: runs each measurement in a process of its own.
    """
    of_one = [_raw(regime, split, seconds / 2, executor) for split in raw.splits_for_one(cores)]
    alone = min(of_one, key=lambda measured: measured.load.p50_ms)
    many = max((_raw(regime, split, seconds, executor) for split in splits), key=lambda measured: measured.load.rate)
    loads = dict.fromkeys(CLIENTS[1:], replace(many.load, p50_ms=math.nan, p99_ms=math.nan)) | {1: alone.load}
    names = {clients: str(many.split) for clients in CLIENTS[1:]} | {1: str(alone.split)}
    return Turn(number, regime.name, RAW, math.nan, many.memory_mib, loads, None, names)


def _raw(regime: Regime, split: raw.Split, seconds: float, executor: Executor) -> raw.Raw:
    return executor.submit(raw.measure, regime.package, regime.payloads, split, seconds).result()
