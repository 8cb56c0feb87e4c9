"""One turn of one contestant in one regime: started, checked, loaded, weighed, stopped; and a turn of raw."""

import math
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.compare import load, raw
from loadtests.compare.load import Load, Target
from loadtests.compare.processes import Tree, started
from loadtests.compare.regimes import Regime
from loadtests.compare.servers import Server
from loadtests.server import ROOT, free_port

CLIENTS = (1, 16, 64)
WARM_S, START_S, SCREEN_S = 1.0, 120.0, 1.0
"""Warm-up; longest that a start may take; one look at each of raw's splits."""
OPEN_SHARE, OPEN_TIMES = 0.7, 3
"""The open loop: its share of the best rate of the closed ones, and how many times as long it lasts."""
LOGS = ROOT / "runs" / "compare" / "logs"
RAW = "raw"


@dataclass(frozen=True)
class Turn:
    """What one turn came to; `problem` says why there is nothing."""

    round: int
    regime: str
    name: str
    start_s: float = math.nan
    memory_mib: float = math.nan
    loads: dict[int, Load] = field(default_factory=dict)
    open_loop: Load | None = None
    splits: dict[int, str] = field(default_factory=dict)
    problem: str = ""


def target_of(server: Server, port: int, regime: Regime) -> Target:
    """What the load generator needs to know."""
    requests = [server.request(regime.model, picture) for picture in regime.pictures]
    return Target(port, requests, regime.expected, server.read)


def serve(server: Server, python: Path, regime: Regime, number: int, seconds: float, cores: int, by: Executor) -> Turn:
    """One turn of a server; whatever is wrong with it is the turn's problem, not the run's."""
    port = free_port()
    command, settings = server.start(python, port, regime, cores)
    target = target_of(server, port, regime)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{server.name}-{regime.name}.txt"
    with started(command, settings, ROOT if server.own else None, log) as tree:
        start_s, problem = first_answer(target, tree, by)
        problem = problem or by.submit(load.ask, target).result()
        if problem:
            return Turn(number, regime.name, server.name, problem=f"{problem} ({_last_words(log)})")
        by.submit(load.closed, target, 16, WARM_S, 0.0).result()
        loads = {clients: _loaded(tree, target, clients, seconds, by) for clients in CLIENTS}
        memory, opened = tree.memory_mib(), None
        best = max(each.rate for each in loads.values())
        if server.own and best:
            opened = by.submit(load.opened, target, OPEN_SHARE * best, OPEN_TIMES * seconds, number).result()
    return Turn(number, regime.name, server.name, start_s, memory, loads, opened)


def _loaded(tree: Tree, target: Target, clients: int, seconds: float, by: Executor) -> Load:
    """A closed loop, and what it cost the server."""
    before = tree.cpu_s()
    found: Load = by.submit(load.closed, target, clients, seconds).result()
    right = found.requests - found.errors
    return found._replace(cpu_ms=1e3 * (tree.cpu_s() - before) / right if right else math.nan)


def first_answer(target: Target, tree: Tree, by: Executor) -> tuple[float, str]:
    """Seconds from the start to the first right answer, or why there is none."""
    first = target._replace(requests=target.requests[:1])
    began, problem = time.perf_counter(), "no answer"
    while (took := time.perf_counter() - began) < START_S:
        if tree.process.poll() is not None:
            return took, f"ended with code {tree.process.returncode}"
        if not (problem := by.submit(load.ask, first).result()):
            return time.perf_counter() - began, ""
        time.sleep(0.05)
    return took, f"no right answer within {START_S:.0f} s: {problem}"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it printed nothing"


def screen(regime: Regime, cores: int, by: Executor) -> list[raw.Split]:
    """The two splits of the machine that are fastest at a short look at each."""
    seen = [_raw(regime, split, SCREEN_S, by) for split in raw.together(cores)]
    return [each.split for each in sorted(seen, key=lambda each: -each.rate)[:2]]


def loop(regime: Regime, number: int, seconds: float, cores: int, splits: list[raw.Split], by: Executor) -> Turn:
    """One turn of raw: its best time of one picture alone, and its best rate of many."""
    alone = min((_raw(regime, split, seconds / 2, by) for split in raw.alone(cores)), key=lambda each: each.p50_ms)
    many = max((_raw(regime, split, seconds, by) for split in splits), key=lambda each: each.rate)
    loads = {clients: Load(many.rate, math.nan, math.nan, 0, 0, "", many.cpu_ms) for clients in CLIENTS[1:]}
    loads[1] = Load(alone.rate, alone.p50_ms, alone.p99_ms, 0, 0, "", alone.cpu_ms)
    said = {clients: str(many.split) for clients in CLIENTS[1:]} | {1: str(alone.split)}
    return Turn(number, regime.name, RAW, math.nan, many.memory_mib, loads, None, said)


def _raw(regime: Regime, split: raw.Split, seconds: float, by: Executor) -> raw.Raw:
    return by.submit(raw.measure, regime.package, regime.pictures, split, seconds).result()
