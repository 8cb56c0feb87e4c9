"""`vitrine tune`: how a model runs best on this machine, by measuring."""

import math
import os
import socket
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import click
import cv2
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.stores import open_store
from errors import LimitMissed, StoreError
from models.package import StoredModel, verify
from runners.cores import CoreShare, available_cores
from runners.machine import conditions, machine_of
from runners.tuned import Tuned, forget, remember
from serving.options import RunnerOptions
from tuning.candidates import search_space
from tuning.duration import expected_s
from tuning.measure import ModelMeasurer
from tuning.search import Outcome, search


@click.command(name="tune")
@click.argument("name")
@click.option(
    "--slo-p99-ms",
    default=250.0,
    show_default=True,
    type=click.FloatRange(0.1, 60_000),
    help="What all but one request in a hundred must be answered within.",
)
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1, 600),
    help="Length of a probe; shorter is quicker and less sure.",
)
@click.option(
    "--plot",
    "plot_to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to draw p99 against rate; runs/tune-NAME.png by default.",
)
@click.option("--forget", "go_back", is_flag=True, help="Go back to the defaults: delete what was found.")
def tune(name: str, slo_p99_ms: float, seconds: float, plot_to: Path | None, go_back: bool) -> None:
    """Find the plan that answers most requests within a latency limit, on this machine.

    Lanes, threads, batches and linger are measured with the model's own goldens, arriving at random. What wins is
    written beside the model (NAME, or NAME:VERSION), and serving uses it from its next start on.
    """
    from settings import load_settings

    try:
        stored = open_store().find(name)
        if go_back:
            was_tuned = forget(stored.path)
            click.echo(f"{stored.tag}: {'back to the defaults' if was_tuned else 'was not tuned'}")
            return
        settings = load_settings()
        options = RunnerOptions.from_settings(settings.model_dump())
        _warn(settings.host, settings.port, options)
        verify(stored)
        _tune(stored, options, slo_p99_ms, seconds, plot_to or Path("runs") / f"tune-{stored.card.name}.png")
    except LimitMissed as error:
        raise click.ClickException(
            f"{error} Nothing was written. Allow more with --slo-p99-ms {1.5 * error.lowest_ms:.3g}, give the process "
            "more cores, or stop what else runs here."
        ) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _warn(host: str, port: int, options: RunnerOptions) -> None:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > available_cores() / 4:
        click.echo(f"Warning: this machine is busy (load {load:.1f}): what is found will be too slow.", err=True)
    try:
        socket.create_connection((host, port), 0.2).close()
        click.echo(f"Warning: a server answers on {host}:{port}: stop it, or both get in each other's way.", err=True)
    except OSError:
        pass
    if options.workers > 1:
        click.echo(f"VITRINE_WORKERS={options.workers}: what follows is for one of them, with its share.", err=True)
    for variable, value in (("VITRINE_MAX_BATCH", options.max_batch), ("VITRINE_LINGER_MS", options.linger_ms)):
        if value is not None:
            click.echo(f"{variable}={value:g} is set, and stays: here, and over whatever is found.", err=True)


def _tune(stored: StoredModel, options: RunnerOptions, slo_p99_ms: float, probe_s: float, plot_to: Path) -> None:
    cv2.setNumThreads(1)  # lanes are the parallelism
    share = CoreShare(options.cores())
    console = Console(stderr=True, highlight=False)
    with closing(ModelMeasurer(stored, options, share, probe_s)) as measurer:
        default, device = measurer.default, measurer.device
        machine = machine_of(device, share.available)
        space = search_space(default, share.available, device, options)
        alone_s, saturation = measurer.lone_latencies(default).mean() / 1e3, measurer.saturation(default)
        span_s = expected_s(space, default, saturation, alone_s, probe_s, slo_p99_ms / 1e3)
        minutes = _minutes(*span_s)
        click.echo(f"Tuning {stored.tag} for a p99 of {slo_p99_ms:g} ms: about {minutes}, more on a busy machine.")
        sys.stdout.flush()  # before what follows on the other stream
        columns = (TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            began, task = time.monotonic(), bar.add_task("loading", total=span_s[1])

            def show(what: str) -> None:
                passed_s = time.monotonic() - began
                bar.update(task, description=what, completed=min(span_s[1], passed_s))
                if not console.is_terminal:
                    click.echo(f"{passed_s:5.0f} s of about {minutes}: {what}", err=True)

            outcome = search(measurer, default, space, slo_p99_ms, show)
    _print(outcome)
    _write(stored, device, machine, outcome, slo_p99_ms)
    if find_spec("matplotlib"):
        _plot(outcome, slo_p99_ms, f"{stored.tag}, {machine}", plot_to)
        click.echo(f"Plot: {plot_to}")
    else:
        click.echo("No plot: matplotlib is not installed here (it comes with what `make test` installs).")


def _write(stored: StoredModel, device: str, machine: str, outcome: Outcome, slo_p99_ms: float) -> None:
    """Write the best plan beside the model, and print it with the conditions that it was measured in."""
    best, default = outcome.best, outcome.default
    tuned = Tuned(
        date=datetime.now(UTC).date().isoformat(),
        slo_p99_ms=slo_p99_ms,
        rate=_rounded(best.rate),
        default_rate=_rounded(default.rate),
        saturation=_rounded(best.saturation),
        alone_p50_ms=_rounded(best.alone_p50_ms),
        plan=best.plan,
    )
    try:
        path = remember(stored.path, machine, tuned)
    except OSError as error:
        raise StoreError(f"{stored.path}: the result could not be written ({error}).") from error
    click.echo(f"{conditions()}\n{stored.tag}, device {device}, p99 within {slo_p99_ms:g} ms")
    click.echo("Arrivals come from a thread of the same process, which costs a little; there is no HTTP in this.")
    if best is default:
        click.echo(f"The default stays, at {tuned.rate:g} requests/s: nothing beat it by more than noise.")
    else:
        gain = f"{best.rate / default.rate - 1:+.0%}" if best.rate and default.rate else "the default never kept it"
        click.echo(f"Best: {best.plan}: {tuned.rate:g} requests/s ({gain}; default {tuned.default_rate:g})")
        click.echo(f"Alone, a request takes {best.alone_p50_ms:.3g} ms (default {default.alone_p50_ms:.3g}).")
    click.echo(f"Written: {path}. A server uses it from its next start on.")


def _minutes(low_s: float, high_s: float) -> str:
    """Return a span of time in whole minutes."""
    low, high = max(1, round(low_s / 60)), max(1, math.ceil(high_s / 60))
    return f"{low} to {high} min" if low < high else f"{high} min"


def _rounded(value: float | None) -> float:
    """Round to four significant digits: more would be noise."""
    return float(f"{value or 0.0:.4g}")


def _print(outcome: Outcome) -> None:
    tty = sys.stdout.isatty()
    decoders = any(candidate.plan.decoders for candidate in outcome.candidates)
    names = ["lanes", "threads", "max batch", "linger ms", *(["decoders"] * decoders)]
    names += ["saturation, 1/s", "p50 alone, ms", "within the limit, 1/s", ""]
    table = Table(*names, box=box.ROUNDED if tty else None)
    for candidate in sorted(outcome.candidates, key=lambda measured: (-(measured.rate or 0), -measured.saturation)):
        roles = ["default"] * (candidate is outcome.default) + ["best"] * (candidate is outcome.best)
        plan, rate = candidate.plan, "lower"
        if candidate.rate is not None:
            rate = f"{candidate.rate:.4g}" if candidate.rate else "never"
        cells = [plan.lanes, "/".join(map(str, plan.widths)), plan.max_batch, f"{plan.linger_ms:g}"]
        cells += [plan.decoders] * decoders
        cells += [f"{candidate.saturation:.4g}", f"{candidate.alone_p50_ms:.3g}", rate, ", ".join(roles)]
        table.add_row(*map(str, cells))
    Console(highlight=False, width=None if tty else 200).print(table)


def _plot(outcome: Outcome, slo_p99_ms: float, title: str, path: Path) -> None:
    """Draw p99 against rate, every probe of the default and of the best, into a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    curves = {"default": outcome.default} | ({"best": outcome.best} if outcome.best is not outcome.default else {})
    for (label, candidate), colour in zip(curves.items(), ("#7a7a7a", "#0b6e99"), strict=False):
        probes = sorted((probe.rate, probe.p99_ms) for probe in outcome.probes if probe.plan == candidate.plan)
        if not probes:
            continue
        axes.plot(*zip(*probes, strict=True), "o", color=colour, label=f"{label}: {candidate.plan}")
        if candidate.rate:
            axes.axvline(candidate.rate, color=colour, linestyle=":")
    axes.axhline(slo_p99_ms, color="#b3261e", linewidth=1, label=f"limit, {slo_p99_ms:g} ms")
    axes.set(xlabel="requests/s, Poisson arrivals", ylabel="p99, ms", yscale="log")
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
