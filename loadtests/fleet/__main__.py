"""`make fleet`: three replicas behind HAProxy; what the balancer costs, and what becomes of requests when one fails.

The replicas are hosts of their own (network namespaces, which needs root), and share this machine's cores with the
balancer and the load. None is left when this ends or is interrupted.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from loadtests.compare.regimes import COMPUTE, OVERHEAD
from loadtests.compare.report import rewrite
from loadtests.fleet import costs
from loadtests.fleet.costs import Buffers, Throughput, Upload
from loadtests.fleet.faults import CUT, FAULTS, KILLED
from loadtests.fleet.outcomes import Scenario
from loadtests.fleet.replicas import Fleet, fleet
from loadtests.fleet.scenarios import Faults
from loadtests.processes import process_beside
from loadtests.server import ROOT
from runners.machine import conditions

MARKS = "<!-- fleet:begin -->", "<!-- fleet:end -->"
NAMES = {OVERHEAD: "cheapest", COMPUTE: "kidney-stone"}
Result = Throughput | Upload | Buffers | Scenario
BUFFER_SIZES = (costs.LEAST_BUFFER, 262_144)


@click.command()
@click.option("--seconds", default=4.0, show_default=True, help="Length of one measurement of throughput.")
@click.option("--rounds", default=3, show_default=True, help="Rounds of throughput; medians are printed.")
@click.option("--only", default="", help="Parts whose name contains this text, such as throughput, killed or rolling.")
@click.option("--model", default="", help="Of cheapest and kidney-stone, only this one.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; docs for a whole run, else runs/fleet.")
def main(seconds: float, rounds: int, only: str, model: str, out: Path | None) -> None:
    """Run the parts, write the tables and the data, and print the tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` stops what it started
    regimes = [regime for regime in (OVERHEAD, COMPUTE) if model in ("", NAMES[regime])]
    out = out or (ROOT / "docs" if not only and not model else ROOT / "runs" / "fleet")
    (out / "performance-data").mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), list[Result]()
    with process_beside(fresh=False) as generator, process_beside(fresh=False) as beside:
        for regime in regimes:
            with fleet(regime, generator) as running:
                plan = _plan(running, generator, beside, seconds, rounds)
                for part in (bar := tqdm([part for part in plan if only in part], unit="part")):
                    bar.set_description(f"{running.regime.model}, {part}")
                    results += plan[part]()
    minutes = (time.monotonic() - began) / 60
    text = f"{conditions().replace(chr(10), '; ')}. {minutes:.0f} minutes.\n\n{_tables(results)}"
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        kinds.setdefault(type(result).__name__.lower(), []).append(asdict(result))
    data = json.dumps({"conditions": conditions(), **kinds}, indent=1, ensure_ascii=False)
    (out / "performance-data" / "fleet.json").write_text(data + "\n", "utf-8")
    rewrite(out / "scale.md", text, MARKS)
    click.echo(text)
    click.echo(f"Written to {out}")
    for result in results:
        if isinstance(result, Scenario) and result.outcome.reason:
            click.echo(f"{result.model}, {result.name}: {result.outcome.reason}", err=True)


def _plan(
    running: Fleet, generator: Executor, beside: Executor, seconds: float, rounds: int
) -> dict[str, Callable[[], Sequence[Result]]]:
    """Return what is measured of a fleet, by the name of the part; some parts are of one model only."""

    @cache
    def faults() -> Faults:
        return Faults(running, generator, beside, seconds)

    def fault(what: str) -> Callable[[], Sequence[Result]]:
        return lambda: [faults().fault(what)]

    plan: dict[str, Callable[[], Sequence[Result]]] = {
        "throughput": lambda: [costs.throughput(running, generator, seconds, rounds)],
        "overload": lambda: [faults().overload()],
        **{what: fault(what) for what in FAULTS},
        "rolling": lambda: [faults().rolling(announced=announced) for announced in (True, False)],
    }
    if not running.hosts["r1"].namespace:
        click.echo("Replicas are addresses of the loopback, which cannot be cut: namespaces need Linux and root.")
        del plan[CUT]
    if running.regime.name == COMPUTE:
        return plan
    plan |= {
        "uploads": lambda: [costs.large_upload(running, generator)],
        "buffers": lambda: [costs.buffers(running, size) for size in BUFFER_SIZES],
    }
    return {part: plan[part] for part in ("throughput", "uploads", "buffers", KILLED)}


def _tables(results: Sequence[Result]) -> str:
    """Return every kind of result as a table in Markdown."""
    texts = list[str]()
    if loads := [_throughput_cells(result) for result in results if isinstance(result, Throughput)]:
        texts.append(_table(THROUGHPUT, loads))
    if scenarios := [_scenario_cells(result) for result in results if isinstance(result, Scenario)]:
        texts.append(_table(SCENARIOS, scenarios))
    for result in results:
        if isinstance(result, Scenario) and result.refused_by_replicas:
            texts.append(
                f"{result.model}, {result.name}: replicas gave {result.refused_by_replicas:,} answers of 429, "
                f"clients got {result.refused:,}."
            )
        if isinstance(result, Upload):
            texts.append(
                f"A lone upload of {result.megabytes:.0f} MB: {result.direct_s * 1e3:,.0f} ms without the balancer, "
                f"{result.through_s * 1e3:,.0f} ms through it ({result.ratio:.2f} times), and "
                f"{result.balancer_s * 1e3:,.0f} ms of the balancer's processor time."
            )
        if isinstance(result, Buffers):
            texts.append(
                f"Buffers of {result.bufsize // 1024} KiB: the balancer takes {result.at_rest_mib:,.0f} MiB at rest, "
                f"{result.beside_mib:,.0f} MiB beside {result.uploads} unfinished uploads of 200 KB."
            )
    return "\n\n".join(texts)


THROUGHPUT = (
    "model|clients|one replica, direct|the same, balanced|three, balanced|balanced over direct|p50 ms direct"
    "|p50 ms balanced|balancer's processor ms an answer|replica's"
)
SCENARIOS = (
    "what happens|model|sent|answered|refused (429)|lost or failed|sent again|p99 ms before|p99 ms after"
    "|s until traffic left|s to heal|larger uploads|answered|cut off or 502"
)


def _throughput_cells(row: Throughput) -> list[str]:
    rates = [f"{rate:,.1f}" for rate in (row.direct, row.one, row.all)]
    times = [row.p50_direct_ms, row.p50_one_ms]
    processor = [row.balancer_ms, row.replica_ms]
    return [
        row.model,
        str(row.clients),
        *rates,
        f"{row.ratio:.2f}",
        *(f"{value:,.1f}" for value in times),
        *(f"{value:.2f}" for value in processor),
    ]


def _scenario_cells(row: Scenario) -> list[str]:
    outcome = row.outcome
    counts = [outcome.offered, outcome.answered, row.refused, outcome.offered - outcome.answered - row.refused]
    times = [(row.p99_before_ms, 0), (row.p99_after_ms, 0), (row.left_s, 1), (outcome.heal_s, 1)]
    large = [row.large, row.large_answered, row.large_gone] if row.large else [math.nan] * 3
    return [
        row.name,
        row.model,
        *(f"{count:,}" for count in (*counts, row.sent_again)),
        *("–" if math.isnan(value) else f"{value:,.{digits}f}" for value, digits in times),
        *("–" if math.isnan(count) else f"{count:,}" for count in large),
    ]


def _table(heads: str, rows: list[list[str]]) -> str:
    names = heads.split("|")
    lines = [names, ["---" if name in ("model", "what happens") else "---:" for name in names], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
