"""`make chaos`: overload, floods, killed and stopped processes, a drain and a soak, each on a server of its own.

Vitrine goes through all of it; the peers through the overload and a killed process. The servers listen on the loopback
alone, and none is left when this ends or is interrupted.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from loadtests.chaos import floods, scenarios
from loadtests.chaos.scenarios import Contestant, Row
from loadtests.chaos.soak import Asked, soak
from loadtests.compare.environments import NotInstalled, install
from loadtests.compare.regimes import COMPUTE, Regime, prepare
from loadtests.compare.report import rewrite
from loadtests.compare.servers import SERVERS, STORE
from loadtests.processes import process_beside
from loadtests.server import ROOT, free_port
from runners.cores import available_cores
from runners.machine import conditions

PEERS = ("mosec", "litserve", "bentoml")
MARKS = "<!-- chaos:begin -->", "<!-- chaos:end -->"
FLOOD_TIMES = 3
"""The length of a flood as a multiple of that of other measurements: few requests come beside it, whose p99 counts."""
Scenario = Callable[[], Sequence[Row]]


def planned(
    regime: Regime,
    contestants: dict[str, Contestant],
    seconds: float,
    requests: int,
    generator: Executor,
    beside: Executor,
) -> Iterator[tuple[str, Scenario]]:
    """Yield the name of each scenario, and what runs it."""
    cores = available_cores()
    vitrine = contestants["vitrine"]

    def one(scenario: Callable[..., Row], contestant: Contestant, name: str, **more: object) -> Scenario:
        run = partial(scenario, contestant, regime, cores, generator, seconds=seconds, name=name, **more)
        return lambda: [run()]

    def with_settings(**settings: str) -> Contestant:
        return replace(vitrine, settings={**vitrine.settings, **settings})

    for name, contestant in contestants.items():
        yield f"overload, {name}", one(scenarios.overload, contestant, "overload, 10 ×")
    shorter = with_settings(VITRINE_QUEUE_MS="500")
    yield "overload, 500 ms", one(scenarios.overload, shorter, "overload, 10 ×, VITRINE_QUEUE_MS=500")
    for name, contestant in contestants.items():
        what = "the only worker killed" if name == "vitrine" else "one of its processes killed"
        yield f"kill, {name}", one(scenarios.fault, contestant, what, kind=signal.SIGKILL)
    two = with_settings(VITRINE_WORKERS="2")
    yield "kill one of two", one(scenarios.fault, two, "one of two workers killed", kind=signal.SIGKILL)
    yield "stop", one(scenarios.fault, vitrine, "the only worker stopped (SIGSTOP)", kind=signal.SIGSTOP)
    explaining = with_settings(VITRINE_EXPLAIN="true")
    for kind, what in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "stopped")):
        name = f"Grad-CAM process {what}"
        explained = partial(scenarios.explanations_fault, explaining, regime, cores, generator, beside)
        yield name, partial(explained, seconds=seconds, name=name, kind=kind)
    for flooded in floods.KINDS:
        flood = partial(floods.flood_beside_streams, explaining, regime, cores, generator, beside)
        yield f"flood of {flooded}", partial(flood, seconds=FLOOD_TIMES * seconds, kind=flooded)
    yield "drain", one(scenarios.drain, vitrine, "SIGTERM under 16 clients")
    yield "soak", lambda: [_soak(explaining, regime, cores, generator, beside, requests)]


def _soak(
    contestant: Contestant, regime: Regime, cores: int, generator: Executor, beside: Executor, requests: int
) -> Row:
    grpc_port = free_port()
    settings = {**contestant.settings, "VITRINE_GRPC_PORT": str(grpc_port), "VITRINE_MODELS": f"{regime.model},churn"}
    with scenarios.serving(replace(contestant, settings=settings), regime, cores, generator) as running:
        asked = Asked(running.target.port, grpc_port, regime.model, regime.payloads, regime.expected, requests)
        outcome = beside.submit(soak, asked).result()
        memory = running.tree.memory_mib()[1]
    return Row(f"soak of {requests:,} mixed requests, HTTP and gRPC", contestant.server.title, outcome, memory)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    heads = "scenario|server|offered|answered|refused|failed|lost|p50 ms|p99 ms|p99 over alone"
    heads += "|of what is left|s to heal|memory MiB"
    lines = [heads.split("|"), ["---", "---", *["---:"] * 11]]
    for row in rows:
        outcome = row.outcome
        counts = [outcome.offered, outcome.answered, outcome.refused, outcome.failed, outcome.lost]
        figures = [(outcome.p50_ms, 0), (outcome.p99_ms, 0), (row.slower, 2), (row.share, 2)]
        figures += [(outcome.heal_s, 1), (row.memory_mib, 0)]
        cells = ["–" if math.isnan(value) else f"{value:,.{digits}f}" for value, digits in figures]
        lines.append([row.scenario, row.server, *(f"{count:,}" for count in counts), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="Length of a measurement before a fault.")
@click.option("--requests", default=10_000, show_default=True, help="Length of the soak.")
@click.option("--only", default="", help="Scenarios whose name contains this text.")
@click.option("--peers", default=",".join(PEERS), show_default=True, help="Peers, by commas; or none.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; docs for a whole run, else runs/chaos.")
def main(seconds: float, requests: int, only: str, peers: str, out: Path | None) -> None:
    """Run the scenarios, write the table and the data, and print the table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` stops what it started
    began, contestants = time.monotonic(), _contestants(peers.split(","))
    out = out or (ROOT / "runs" / "chaos" if only or len(contestants) <= len(PEERS) else ROOT / "docs")
    (out / "performance-data").mkdir(parents=True, exist_ok=True)
    rows = list[Row]()
    with process_beside(fresh=False) as generator, process_beside(fresh=False) as beside:
        regime = prepare([COMPUTE], STORE, generator)[0]
        plan = planned(regime, contestants, seconds, requests, generator, beside)
        chosen = [(name, scenario) for name, scenario in plan if only in name]
        for name, scenario in (bar := tqdm(chosen, unit="scenario")):
            bar.set_description(name)
            rows += scenario()
    for row in rows:
        if row.outcome.reason:
            click.echo(f"{row.scenario}, {row.server}: {row.outcome.reason}", err=True)
    minutes = (time.monotonic() - began) / 60
    text = f"{conditions().replace(chr(10), '; ')}. kidney-stone, {minutes:.0f} minutes.\n\n{table(rows)}"
    data = {"conditions": conditions(), "rows": [asdict(row) for row in rows]}
    (out / "performance-data" / "chaos.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")
    rewrite(out / "reliability.md", text, MARKS)
    click.echo(text)
    click.echo(f"Written to {out}")


def _contestants(peers: Sequence[str]) -> dict[str, Contestant]:
    """Return Vitrine and those of the peers that can be installed, by name."""
    contestants = dict[str, Contestant]()
    for server in SERVERS:
        if server.own:
            contestants[server.name] = Contestant(server, Path(sys.executable), {})
        elif server.name in peers:
            try:
                contestants[server.name] = Contestant(server, install(server.name), {})
            except NotInstalled as error:
                click.echo(f"{server.title} {error}", err=True)
    return contestants


if __name__ == "__main__":
    main()
