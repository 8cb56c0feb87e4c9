"""The fleet: replicas on hosts of their own, one of two versions of a model each, and the balancer in front of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.haproxy.balancer import Balancer, Replica, balancing
from deploy.haproxy.hosts import Host, hosts
from deploy.haproxy.replicas import place, serve_command, settings_of, wait_ready
from loadtests.compare import wire
from loadtests.compare.load import Target
from loadtests.compare.regimes import Regime, prepare
from loadtests.processes import Tree, started
from loadtests.server import ROOT, free_port

COUNT = 3
FOLDER = ROOT / "runs" / "fleet"
STORE = FOLDER / "bentoml"
"""The fleet's own model store, which all replicas read."""
UP_S = 180.0
"""Seconds that the balancer is given to notice that a replica is back."""


@dataclass
class Fleet:
    """Replicas and their balancer.

    Attributes:
        regime: the model, what is sent to it, and the right answers.
        versions: of the model, the old and the new one.
        hosts: by name.
        replicas: by name.
        balancer: in front of them.
        trees: the processes of each replica, by name.
    """

    regime: Regime
    versions: tuple[str, str]
    hosts: Mapping[str, Host]
    replicas: Mapping[str, Replica]
    balancer: Balancer
    trees: dict[str, Tree] = field(default_factory=dict)
    _stacks: dict[str, ExitStack] = field(default_factory=dict)

    def start(self, name: str, version: str) -> None:
        """Start a replica that serves one version, and return at once."""
        stack = self._stacks[name] = ExitStack()
        settings = {
            "BENTOML_HOME": str(STORE),
            "VITRINE_MODELS": f"{self.regime.model}:{version}",
            "VITRINE_DEFAULT_MODEL": self.regime.model,
            "VITRINE_EXPLAIN": "false",
            "VITRINE_ACCESS_LOG": "false",
            "VITRINE_DRAIN_SECONDS": "35",
        }
        replica, log = self.replicas[name], FOLDER / f"{name}.txt"
        command = self.hosts[name].command(serve_command(replica))
        self.trees[name] = stack.enter_context(started(command, settings_of(replica) | settings, ROOT, log))

    def end(self, name: str) -> None:
        """End a replica with SIGTERM, or what is left of one."""
        self._stacks.pop(name, ExitStack()).close()

    def wait_ready(self, *names: str) -> None:
        """Return once these replicas are ready.

        Raises:
            RuntimeError: one was not in time.
        """
        wait_ready([self.replicas[name] for name in names])

    def wait_up(self, *names: str) -> None:
        """Return once these replicas are ready, and the balancer knows it.

        Raises:
            RuntimeError: one was not ready in time.
        """
        self.wait_ready(*names)
        for name in names:
            self.wait_status(name, "UP", UP_S)

    def wait_status(self, name: str, status: str, seconds: float) -> float:
        """Return the seconds until the balancer's opinion of a replica is this; NaN if that did not happen in time."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            if self.balancer.status()[name]["status"].startswith(status):
                return time.monotonic() - began
            time.sleep(0.02)
        return float("nan")

    def wait_idle(self, name: str) -> None:
        """Return once a replica has nothing of the balancer's in hand."""
        while self.balancer.in_hand(name):
            time.sleep(0.05)

    def served_version(self, name: str) -> str:
        """Return the version of the model that a replica serves."""
        replica = self.replicas[name]
        with urllib.request.urlopen(f"http://{replica.address}:{replica.port}/models/{self.regime.model}") as answer:
            return str(json.load(answer)["version"])

    def only(self, *names: str) -> None:
        """Let the balancer use these replicas and no others."""
        for name in self.replicas:
            self.balancer.set_state(name, "ready" if name in names else "maint")
        for name in names:
            self.wait_status(name, "UP", UP_S)

    def target(self) -> Target:
        """Return how the model is asked through the balancer."""
        path = f"/models/{self.regime.model}/predict"
        requests = [wire.write_body(path, payload) for payload in self.regime.payloads]
        return Target(self.balancer.port, requests, self.regime.expected, wire.read_vitrine)

    def direct(self, name: str) -> Target:
        """Return how one replica is asked without the balancer."""
        replica = self.replicas[name]
        return self.target()._replace(port=replica.port, host=replica.address)

    def balancer_cpu_s(self) -> float:
        """Return the balancer's processor seconds so far."""
        times = psutil.Process(self.balancer.process.pid).cpu_times()
        return float(times.user + times.system)

    def statuses(self) -> dict[str, int]:
        """Return how many requests for the model ended with which status, counted by the replicas themselves."""
        counts = dict[str, int]()
        for replica in self.replicas.values():
            with urllib.request.urlopen(f"http://{replica.address}:{replica.port}/metrics", timeout=30) as answer:
                text = answer.read().decode()
            for labels, value in re.findall(r"(?m)^vitrine_requests_total\{(.*)\} (\S+)", text):
                if f'model="{self.regime.model}"' in labels:
                    status = re.findall(r'status="(\w+)"', labels)[0]
                    counts[status] = counts.get(status, 0) + int(float(value))
        return counts

    @contextmanager
    def throttled(self, name: str, share: float) -> Iterator[None]:
        """Let a replica run for a share of the time only, until the block ends."""
        over, period_s = threading.Event(), 0.1

        def throttle() -> None:
            while not over.is_set():
                _signal_all(self.trees[name], signal.SIGSTOP)
                over.wait(period_s * (1 - share))
                _signal_all(self.trees[name], signal.SIGCONT)
                time.sleep(period_s * share)

        thread = threading.Thread(target=throttle)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def signal(self, name: str, kind: signal.Signals) -> None:
        """Send a signal to every process of a replica."""
        _signal_all(self.trees[name], kind)


def _signal_all(tree: Tree, kind: signal.Signals) -> None:
    with suppress(psutil.Error):
        root = psutil.Process(tree.process.pid)
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                process.send_signal(kind)


@contextmanager
def fleet(name: str, generator: Executor) -> Iterator[Fleet]:
    """Run three replicas of a regime's model and their balancer until the block ends.

    Args:
        name: of the regime.
        generator: computes the right answers, in a process beside this one.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    regime = prepare([name], STORE, generator)[0]
    versions = _two_versions(regime)
    with ExitStack() as stack:
        own = {host.name: host for host in stack.enter_context(hosts(COUNT))}
        replicas = {name: place(host) for name, host in own.items()}
        ports = free_port(), free_port(), free_port()
        balancer = stack.enter_context(balancing(list(replicas.values()), FOLDER, ports))
        running = Fleet(regime, versions, own, replicas, balancer)
        try:
            for name in replicas:
                running.start(name, versions[0])
            running.wait_up(*replicas)
            yield running
        finally:
            with ThreadPoolExecutor(COUNT) as pool:
                list(pool.map(running.end, replicas))


def _two_versions(regime: Regime) -> tuple[str, str]:
    """Import the model and another version of it, which differs in its description and answers the same."""
    other = FOLDER / f"{regime.model}-2"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(regime.package, other)
    card = other / "card.toml"
    card.write_text(re.sub(r'(?m)^description = "', 'description = "Version 2. ', card.read_text("utf-8"), count=1))
    old, new = _imported(regime.package), _imported(other)
    if old == new:
        raise RuntimeError(f"the second version of {regime.model} is the first one")
    return old, new


def _imported(package: Path) -> str:
    code = "import sys, pathlib, models.store as s; print(s.import_package(pathlib.Path(sys.argv[1]))[0].tag)"
    environment = os.environ | {"BENTOML_HOME": str(STORE), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-c", code, str(package)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(f"{package.name} could not be imported: {ran.stderr[-2000:]}")
    return ran.stdout.split()[-1].partition(":")[2]
