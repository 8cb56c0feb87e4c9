"""`make compare`: measures Vitrine, its peers and raw by turns, in several rounds, and prints the conditions.

It leaves no process behind when it ends or is interrupted, and its servers listen on the loopback alone.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from types import FrameType

import click

from loadtests.compare import load, report, turns
from loadtests.compare.environments import NotInstalled, install
from loadtests.compare.figures import NEAR
from loadtests.compare.plot import plot
from loadtests.compare.raw import Split
from loadtests.compare.regimes import REGIMES, Regime, prepare
from loadtests.compare.rounds import MOST, measure_in_rounds
from loadtests.compare.servers import SERVERS, STORE, Server
from loadtests.compare.turns import RAW, Turn
from loadtests.compare.wire import write_body
from loadtests.processes import process_beside, started
from loadtests.server import ROOT, free_port
from runners.cores import available_cores
from runners.machine import conditions

NAMES = (RAW, *(server.name for server in SERVERS))


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Rounds; 5 for close results. Medians are shown.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of one measurement.")
@click.option("--only", default=",".join(NAMES), show_default=True, help="Contestants, by commas.")
@click.option("--regime", type=click.Choice(REGIMES), help="One of them; all by default.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; docs for a whole run, else runs/compare.")
def main(rounds: int, seconds: float, only: str, regime: str | None, out: Path | None) -> None:
    """Measure, write table, picture and data, and print the table."""
    signal.signal(signal.SIGTERM, _exit)  # so that every `finally` stops what it started
    began, chosen = time.monotonic(), [name for name in NAMES if name in only.split(",")]
    if unknown := set(only.split(",")) - set(NAMES):
        raise click.UsageError(f"--only {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}.")
    whole = regime is None and len(chosen) == len(NAMES)
    out = out or (ROOT / "docs" if whole else ROOT / "runs" / "compare")
    out.mkdir(parents=True, exist_ok=True)
    pythons, missing = _environments(chosen)
    with process_beside(fresh=True) as fresh, process_beside(fresh=False) as generator:
        regimes = prepare([regime] if regime else REGIMES, STORE, fresh)
        ceiling = _ceiling(regimes[-1], min(3.0, seconds), generator)
        measured = _measure(regimes, chosen, pythons, rounds, seconds, fresh, generator)
    further = f" ({MOST} for who is less than {100 * NEAR:g} % from Vitrine's throughput)" if rounds < MOST else ""
    settings = (
        f"{rounds} rounds{further} of {seconds:g} s each, medians. The load generator alone: {ceiling:,.0f} requests/s "
        f"at 64 clients against a server that does nothing. Took {(time.monotonic() - began) / 60:.0f} minutes."
    )
    titles = _titles(chosen, pythons)
    run = report.Run(measured, missing, titles, conditions().replace("\n", "; "), settings, ceiling)
    report.save(run, out / "performance-data" / "compare.json")
    plot(run, out / "compare.png")
    text = report.block(run)
    report.rewrite(out / "performance.md", f"{text}\n\n![Throughput and latency](compare.png)")
    click.echo(text)
    click.echo(f"Written to {out}")


def _environments(chosen: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreters of the servers that are installed, and why the others are not, by name."""
    pythons, missing = dict[str, Path](), dict[str, str]()
    for server in SERVERS:
        if server.name in chosen:
            try:
                pythons[server.name] = Path(sys.executable) if server.own else install(server.name)
            except NotInstalled as error:
                missing[server.name] = str(error)
                click.echo(f"{server.title} {error}", err=True)
    return pythons, missing


def _measure(
    regimes: Sequence[Regime],
    chosen: Sequence[str],
    pythons: dict[str, Path],
    rounds: int,
    seconds: float,
    fresh: Executor,
    generator: Executor,
) -> list[Turn]:
    """Measure every contestant that is there, in rounds."""
    cores, servers, splits = available_cores(), {server.name: server for server in SERVERS}, dict[str, list[Split]]()

    def measure(number: int, regime: Regime, name: str) -> Turn:
        if name != RAW:
            return turns.serve(servers[name], pythons[name], regime, number, seconds, cores, generator)
        splits[regime.name] = splits.get(regime.name) or turns.fastest_splits(regime, cores, fresh)
        return turns.loop(regime, number, seconds, cores, splits[regime.name], fresh)

    ready = [name for name in chosen if name == RAW or name in pythons]
    return measure_in_rounds(regimes, ready, rounds, measure)


def _ceiling(regime: Regime, seconds: float, generator: Executor) -> float:
    """Return the requests a second that the load generator gets from a server that does nothing.

    Raises:
        click.ClickException: that server did not answer.
    """
    port, answer = free_port(), regime.expected[0]
    target = load.Target(port, [write_body("/", regime.payloads[0])], [answer], json.loads)
    command = [sys.executable, "-m", "loadtests.compare.trivial", str(port), json.dumps(answer)]
    turns.LOGS.mkdir(parents=True, exist_ok=True)
    with started(command, {}, ROOT, turns.LOGS / "trivial.txt") as tree:
        _, problem = turns.first_answer(target, tree, generator)
        if problem:
            raise click.ClickException(f"the server that does nothing: {problem}")
        return float(generator.submit(load.closed, target, 64, seconds).result().rate)


def _titles(chosen: Sequence[str], pythons: dict[str, Path]) -> dict[str, str]:
    """Return the title of each contestant, with its version."""
    titles = {RAW: "Raw: a plain loop"}
    titles |= {server.name: f"{server.title} {_version(server, pythons)}".strip() for server in SERVERS}
    return {name: titles[name] for name in chosen}


def _version(server: Server, pythons: dict[str, Path]) -> str:
    if server.name not in pythons:
        return ""
    code = f"from importlib.metadata import version; print(version({server.package!r}))"
    return subprocess.run([str(pythons[server.name]), "-c", code], capture_output=True, text=True).stdout.strip()


def _exit(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
