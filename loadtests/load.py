"""`make loadtest`: two minutes of load on a server of its own, with limits that set the exit code.

First a closed loop of mixed users, ever more of them; then an open loop of single pictures, at shares of the highest
rate of the closed loop. Writes locust's report and two plots, and prints a verdict.
"""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent.monkey

gevent.monkey.patch_all()  # before anything opens a socket

import click  # noqa: E402
import requests  # noqa: E402
from locust import User  # noqa: E402
from locust.env import Environment  # noqa: E402
from locust.html import get_html_report  # noqa: E402
from locust.stats import StatsEntry  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from rich.progress import Progress  # noqa: E402

from loadtests import locustfile  # noqa: E402
from loadtests.bench import MODEL  # noqa: E402
from loadtests.expectation import limit_text  # noqa: E402
from loadtests.locustfile import Arrivals, BatchUser, ExplainUser, FormUser, GrpcUser, RawUser, RowUser  # noqa: E402
from loadtests.server import free_port, serving  # noqa: E402
from runners.machine import conditions  # noqa: E402

MIXED = (RawUser, FormUser, BatchUser, ExplainUser, RowUser, GrpcUser)
CLIENTS, SHARES = (1, 4, 16, 32), (0.3, 0.5, 0.7)
SETTLE_S = 1.0
"""Pause between two phases."""
SINGLE = ("raw", "form", "gRPC", "open loop")
"""Names of the requests of one picture without a heatmap: latencies are measured on these."""


class Addresses(NamedTuple):
    """Where a server answers."""

    url: str
    grpc: str


class Phase(NamedTuple):
    """The figures of one phase; `rate` is in images a second, latencies are those of `SINGLE`."""

    name: str
    rate: float
    p50_ms: float
    p99_ms: float
    failures: int
    requests: int


class BatchSizes(NamedTuple):
    """The mean batch of each second: seconds since the start, and images a batch."""

    seconds: list[float]
    means: list[float]


def run_phase(
    name: str, kinds: Sequence[type[User]], users: int, seconds: float, server: Addresses, out: Path
) -> Phase:
    """Run users against the server, write locust's report, and sum up the answers."""
    options: Any = type("Options", (), {"grpc": server.grpc, "rate": 0.0})()
    environment = Environment(user_classes=list(kinds), host=server.url, parsed_options=options)
    runner = environment.create_local_runner()
    runner.start(users, spawn_rate=users)
    gevent.sleep(seconds)
    runner.quit()
    (out / f"{name.replace(',', '').replace(' ', '-').replace('%', '')}.html").write_text(
        get_html_report(environment), "utf-8"
    )
    entries = list(environment.stats.entries.values())
    pictures = sum(
        entry.num_requests * (4 if entry.name == "batch of 4" else 1) for entry in entries if entry.name != "row"
    )
    single, total = StatsEntry(environment.stats, "single", ""), environment.stats.total
    for entry in entries:
        if entry.name in SINGLE:
            single.extend(entry)
    p50, p99 = (float(single.get_response_time_percentile(share)) for share in (0.5, 0.99))
    return Phase(name, pictures / seconds, p50, p99, total.num_failures, total.num_requests)


def record_batch_sizes(url: str, stop: threading.Event, sizes: BatchSizes) -> None:
    """Append the mean batch of every second to `sizes` until `stop` is set."""
    began, before = time.perf_counter(), (0, 0)
    while not stop.wait(1.0):
        batches = requests.get(f"{url}/models/{MODEL}/stats", timeout=10).json()["batches"]
        now = sum(times for times, _ in batches.values()), sum(int(n) * times for n, (times, _) in batches.items())
        if now[0] > before[0]:
            sizes.seconds.append(time.perf_counter() - began)
            sizes.means.append((now[1] - before[1]) / (now[0] - before[0]))
        before = now


def plot(phases: list[Phase], sizes: BatchSizes, folder: Path) -> None:
    """Draw latency against load, and batch size over time, into `load.png`."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, marker in (("closed", "o"), ("open", "s")):
        of_kind = [phase for phase in phases if phase.name.startswith(kind)]
        for key, style in (("p50_ms", "-"), ("p99_ms", "--")):
            values = [getattr(phase, key) for phase in of_kind]
            left.plot([phase.rate for phase in of_kind], values, style, marker=marker, label=f"{kind} loop, {key[:3]}")
    left.set(xlabel="images/s", ylabel="latency, ms", yscale="log", title="Latency against load")
    left.legend()
    right.plot(sizes.seconds, sizes.means)
    right.set(xlabel="seconds", ylabel="images a batch", ylim=(0, None), title=f"Mean batch of {MODEL}")
    figure.savefig(folder / "load.png", dpi=110)


@click.command()
@click.option("--seconds", default=16.0, show_default=True, help="Length of each of the seven phases.")
@click.option(
    "--slo-p99-ms",
    default=250.0,
    show_default=True,
    help="Limit of the open loop at half load.",
)
@click.option("--out", default=Path("runs/loadtest"), type=click.Path(path_type=Path), show_default=True)
def main(seconds: float, slo_p99_ms: float, out: Path) -> None:
    """Load a fresh server; exit code 1 if an answer was wrong or missing, or the open loop too slow."""
    out.mkdir(parents=True, exist_ok=True)
    locustfile.pictures(), locustfile.rows()  # their answers are computed before anything is timed
    port, grpc_port = free_port(), free_port()
    server = Addresses(f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}")
    phases, sizes, stop = list[Phase](), BatchSizes([], []), threading.Event()
    with serving(port, {"VITRINE_GRPC_PORT": str(grpc_port)}), Progress() as bar:
        while requests.get(f"{server.url}/health", timeout=10).json()["explanations"][MODEL] != "ready":
            gevent.sleep(0.2)
        watcher = threading.Thread(target=record_batch_sizes, args=(server.url, stop, sizes), daemon=True)
        watcher.start()
        task = bar.add_task("load", total=len(CLIENTS) + len(SHARES))
        for users in CLIENTS:
            phases.append(run_phase(f"closed, {users} users", MIXED, users, seconds, server, out))
            bar.advance(task)
            gevent.sleep(SETTLE_S)
        best = max(phase.rate for phase in phases)
        explanation = limit_text(slo_p99_ms, phases[0].p50_ms, best / 2)
        bar.console.print(explanation, markup=False, highlight=False, soft_wrap=True)
        for share in SHARES:
            Arrivals.rate = share * best
            phases.append(run_phase(f"open, {share:.0%} load", [Arrivals], 1, seconds, server, out))
            bar.advance(task)
            gevent.sleep(SETTLE_S)
        stop.set()
        watcher.join()
    plot(phases, sizes, out)
    click.echo(conditions())
    click.echo(f"{'phase':>18} {'images/s':>9} {'p50 ms':>8} {'p99 ms':>8} {'failed':>7} of requests")
    for phase in phases:
        figures = f"{phase.rate:9.1f} {phase.p50_ms:8.0f} {phase.p99_ms:8.0f} {phase.failures:7} {phase.requests:11}"
        click.echo(f"{phase.name:>18} {figures}")
    half = phases[len(CLIENTS) + SHARES.index(0.5)]
    problems = [f"{phase.name}: {phase.failures} wrong or missing answers" for phase in phases if phase.failures]
    problems += [f"{phase.name}: no request was answered" for phase in phases if not phase.requests]
    if not half.p99_ms <= slo_p99_ms:
        problems.append(f"{half.name}: p99 {half.p99_ms:.0f} ms, over the limit of {slo_p99_ms:g} ms\n{explanation}")
    click.echo(f"Reports and plots: {out}")
    click.echo("PASSED" if not problems else "FAILED\n" + "\n".join(problems))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
