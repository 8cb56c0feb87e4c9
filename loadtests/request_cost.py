"""`make bench-requests`: the processor time that a server takes for one cheap request, of this folder and of another.

Counted are the user and system time of the whole process tree, or its user instructions where the machine counts them
(`perf stat`), over a fixed number of requests. Two folders take turns, so that a machine whose speed drifts moves both.
"""

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import uvloop

from loadtests.compare import cheapest
from loadtests.compare.load import Connection
from loadtests.compare.wire import post, write_body
from loadtests.figures import measure_in_turns, median_and_range, random_rows, ratios
from loadtests.instructions import are_counted, count_during
from loadtests.processes import Tree
from loadtests.server import ROOT, free_port, running, serve_command
from models.card import as_row_card, read_card
from models.registry import package_folder
from runners.machine import conditions

STORE = ROOT / "runs" / "requests" / "bentoml"
"""The measurement's own model store."""
ROWS = 1000


class Case(NamedTuple):
    """What is asked.

    Attributes:
        requests: encoded, taken in turns.
        clients: how many wait for an answer at a time.
        requests_measured: of one measurement.
    """

    requests: Sequence[bytes]
    clients: int
    requests_measured: int


def cases() -> dict[str, Case]:
    """Return the cases by their names: a tiny picture, one row, and a batch of rows."""
    rows = random_rows(as_row_card(read_card(package_folder("churn") / "card.toml")), ROWS)
    pictures = [write_body(f"/models/{cheapest.NAME}/predict", picture) for picture in cheapest.pictures()]
    single = [post("/models/churn/predict", json.dumps(row).encode(), "application/json") for row in rows[:16]]
    batch = post("/models/churn/predict/batch", json.dumps({"samples": rows}).encode(), "application/json")
    return {
        "picture": Case(pictures, 64, 4_000),
        "row": Case(single, 64, 4_000),
        f"{ROWS} rows": Case([batch], 4, 100),
    }


def install() -> None:
    """Import both models into the measurement's store.

    Raises:
        RuntimeError: they could not be imported.
    """
    STORE.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"BENTOML_HOME": str(STORE), "BENTOML_DO_NOT_TRACK": "True"}
    vitrine = str(Path(sys.executable).with_name("vitrine"))
    build = [sys.executable, "-m", "loadtests.compare.cheapest", str(STORE.with_name("cheapest"))]
    for command in (build, [vitrine, "models", "import", "churn"]):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"a model could not be imported: {done.stderr[-2000:]}")


async def send(port: int, case: Case, count: int) -> None:
    """Send so many requests of a case.

    Raises:
        RuntimeError: one was not answered with 200.
    """
    requests = itertools.islice(itertools.cycle(case.requests), count)

    async def client() -> None:
        connection = Connection()
        for request in requests:
            status, body = await connection.exchange(port, request)
            if status != 200:
                raise RuntimeError(f"{status}: {body[:200]!r}")
        connection.close()

    await asyncio.gather(*(client() for _ in range(case.clients)))


def cost(port: int, tree: Tree, case: Case, *, counts_instructions: bool) -> float:
    """Return what one request of a case costs the server: thousands of user instructions, or microseconds."""

    def load(count: int) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(send(port, case, count))

    load(case.clients)
    if not counts_instructions:
        before = tree.cpu_s()
        load(case.requests_measured)
        return (tree.cpu_s() - before) / case.requests_measured * 1e6
    _, instructions = count_during(tree.pids(), lambda: load(case.requests_measured))
    return instructions / case.requests_measured / 1e3


@contextlib.contextmanager
def served(folder: Path, *, access_log: bool) -> Iterator[tuple[int, Tree]]:
    """Serve the two models by the code in a folder, with one worker; yield its port and its processes."""
    port = free_port()
    settings = {
        "BENTOML_HOME": str(STORE),
        "PYTHONPATH": str(folder),
        "VITRINE_EXPLAIN": "false",
        "VITRINE_ACCESS_LOG": str(access_log).lower(),
        "VITRINE_DEFAULT_MODEL": "churn",
    }
    with running(serve_command(port), folder, port, 120, settings) as (tree, _):
        yield port, tree


@click.command()
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another source folder.")
@click.option("--rounds", default=9, show_default=True, help="Rounds; medians are printed.")
@click.option("--access-log/--no-access-log", default=False, show_default=True, help="Whether requests are logged.")
def main(against: Path | None, rounds: int, access_log: bool) -> None:
    """Print what a request of each case costs the server, here and in another folder with the same packages."""
    install()
    counts = are_counted()
    unit = "k instructions" if counts else " µs"
    folders = {"here": ROOT} | ({"there": against.resolve()} if against else {})
    click.echo(conditions())
    click.echo(f"{rounds} rounds, median (min-max) of the server's{' user' if counts else ' user and system'} time")
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(served(path, access_log=access_log)) for name, path in folders.items()}

        def measure(name: str, case: Case) -> Callable[[], float]:
            return lambda: cost(*servers[name], case, counts_instructions=counts)

        for title, case in cases().items():
            measured = measure_in_turns({name: measure(name, case) for name in servers}, rounds)
            for name, values in measured.items():
                click.echo(f"{title:>10}, {name}: {median_and_range(values, unit, 8)}")
            if against:
                click.echo(f"{title:>10}, here / there: {statistics.median(ratios(*measured.values())):.3f}")


if __name__ == "__main__":
    main()
