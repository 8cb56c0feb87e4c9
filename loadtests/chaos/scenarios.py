"""The scenarios: each starts a server of its own, loads it from a process beside this one, and does something to it."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil

from loadtests.chaos.outcomes import Outcome, outcome_of, share_of_what_is_left
from loadtests.compare import load
from loadtests.compare.load import Exchange, Target
from loadtests.compare.regimes import Regime
from loadtests.compare.servers import Server
from loadtests.compare.turns import LOGS, first_answer
from loadtests.processes import Tree, started
from loadtests.server import EXPLAINER_LOADS_S, ROOT, free_port

CLIENTS, OVERLOAD, STEADY = 16, 10.0, 0.4
"""Clients of a closed loop, and the rates of open loops: so many times what that gets."""
FAULT_AT_S, WATCHED_S = 3.0, 30.0
"""When a fault is done after the start of a load, and how long the load goes on after it, in seconds."""
WARM_S = 3.0


@dataclass(frozen=True)
class Contestant:
    """A server and the interpreter that runs it.

    Attributes:
        server: how it is started and asked.
        python: the interpreter of its environment.
        settings: environment variables beside the server's own.
    """

    server: Server
    python: Path
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        scenario: what was done.
        server: to whom.
        outcome: what became of the requests.
        memory_mib: proportional memory of the server's processes at the end.
        share: of an overload, the rate of right answers over the best that was left of the machine.
        slower: beside a flood, the 99th percentile of the latency over that without it.
    """

    scenario: str
    server: str
    outcome: Outcome
    memory_mib: float = math.nan
    share: float = math.nan
    slower: float = math.nan


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        tree: its processes.
        target: how it is asked, and what is right.
        generator: runs loads, in a process beside this one.
    """

    tree: Tree
    target: Target
    generator: Executor

    def best(self, seconds: float) -> tuple[float, float]:
        """Return right answers a second to a closed loop, and the server's processor seconds for one."""
        before_s = self.tree.cpu_s()
        measured = self.generator.submit(load.closed, self.target, CLIENTS, seconds).result()
        answered = measured.requests - measured.errors
        return measured.rate, (self.tree.cpu_s() - before_s) / max(1, answered)

    def faulted(self, fault: Callable[[], object], rate: float) -> list[Exchange]:
        """Return the exchanges of a steady open loop, during which the fault is done."""
        loading = self.generator.submit(load.open_exchanges, self.target, rate, FAULT_AT_S + WATCHED_S)
        time.sleep(FAULT_AT_S)
        fault()
        return loading.result()


@contextmanager
def serving(contestant: Contestant, regime: Regime, cores: int, generator: Executor) -> Iterator[Running]:
    """Run a server until the block ends.

    Raises:
        RuntimeError: it gave no right answer.
    """
    port, server = free_port(), contestant.server
    command, settings = server.start(contestant.python, port, regime, cores)
    requests = [server.request(regime, payload) for payload in regime.payloads]
    target = Target(port, requests, regime.expected, server.read)
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"chaos-{server.name}.txt"
    with started(command, {**settings, **contestant.settings}, ROOT if server.own else None, log) as tree:
        if problem := first_answer(target, tree, generator)[1]:
            raise RuntimeError(f"{server.title}: {problem}")
        generator.submit(load.closed, target, CLIENTS, WARM_S, 0.0).result()
        yield Running(tree, target, generator)


def overload(
    contestant: Contestant, regime: Regime, cores: int, generator: Executor, *, seconds: float, name: str
) -> Row:
    """Ask ten times as much as the server can do."""
    with serving(contestant, regime, cores, generator) as running:
        best_rate, answer_s = running.best(seconds)
        before_s, own_before_s = running.tree.cpu_s(), _cpu_s(generator)
        exchanges = generator.submit(load.open_exchanges, running.target, OVERLOAD * best_rate, seconds).result()
        server_s, generator_s = running.tree.cpu_s() - before_s, _cpu_s(generator) - own_before_s
        outcome, memory = outcome_of(running.target, exchanges), running.tree.memory_mib()[1]
    took_s = max((exchange.ended_s for exchange in exchanges if exchange.status == 200), default=seconds)
    rate = outcome.answered / took_s
    share = share_of_what_is_left(rate, best_rate, generator_s, server_s, answer_s, took_s, cores)
    return Row(name, contestant.server.title, outcome, memory, share)


def fault(
    contestant: Contestant,
    regime: Regime,
    cores: int,
    generator: Executor,
    *,
    seconds: float,
    name: str,
    kind: signal.Signals,
) -> Row:
    """Send a signal to the process that computes, or to one of several, under a steady load."""
    with serving(contestant, regime, cores, generator) as running:
        rate = STEADY * running.best(seconds)[0]
        exchanges = running.faulted(partial(_signal_busiest, running, kind), rate)
        outcome, memory = outcome_of(running.target, exchanges, FAULT_AT_S), running.tree.memory_mib()[1]
    return Row(name, contestant.server.title, outcome, memory)


def explanations_fault(
    contestant: Contestant,
    regime: Regime,
    cores: int,
    generator: Executor,
    beside: Executor,
    *,
    seconds: float,
    name: str,
    kind: signal.Signals,
) -> list[Row]:
    """Send a signal to the Grad-CAM process, under a steady load of explanations and of predictions."""
    with serving(contestant, regime, cores, generator) as running:
        time.sleep(EXPLAINER_LOADS_S)
        rate = STEADY / 2 * running.best(seconds)[0]
        requests = [request.replace(b"/predict ", b"/explain ", 1) for request in running.target.requests]
        explained = running.target._replace(requests=requests)
        predicting = beside.submit(load.open_exchanges, running.target, rate, FAULT_AT_S + WATCHED_S, 1)
        exchanges = replace(running, target=explained).faulted(partial(_signal_explainer, running, kind), rate)
        memory, title = running.tree.memory_mib()[1], contestant.server.title
        outcomes = {
            f"{name}: explanations": outcome_of(explained, exchanges, FAULT_AT_S),
            f"{name}: predictions": outcome_of(running.target, predicting.result(), FAULT_AT_S),
        }
    return [Row(scenario, title, outcome, memory) for scenario, outcome in outcomes.items()]


def drain(contestant: Contestant, regime: Regime, cores: int, generator: Executor, *, seconds: float, name: str) -> Row:
    """Send SIGTERM to the server while clients wait for answers."""
    with serving(contestant, regime, cores, generator) as running:
        loading = generator.submit(load.closed_exchanges, running.target, CLIENTS, FAULT_AT_S + seconds)
        time.sleep(FAULT_AT_S)
        running.tree.process.send_signal(signal.SIGTERM)
        return Row(name, contestant.server.title, outcome_of(running.target, loading.result()))


def _cpu_s(executor: Executor) -> float:
    """Return the processor seconds of an executor's one process so far."""
    times = psutil.Process(executor.submit(os.getpid).result()).cpu_times()
    return float(times.user + times.system)


def _signal_busiest(running: Running, kind: signal.Signals) -> None:
    """Signal the process that has computed most so far: of servers with several that compute, one of these."""
    members = [process for process in running.tree.members() if process.pid != running.tree.process.pid]
    max(members, key=_spent_s).send_signal(kind)


def _signal_explainer(running: Running, kind: signal.Signals) -> None:
    """Signal the Grad-CAM process."""
    for process in running.tree.members():
        with suppress(psutil.Error):
            if "gradcam" in process.cmdline():
                process.send_signal(kind)
                return
    raise RuntimeError("there is no Grad-CAM process")


def _spent_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(sum(process.cpu_times()[:2]))
    return 0.0
