"""A flood of one kind of request, beside which clients of the two other kinds ask now and then."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from math import nan
from typing import Any, Literal

import uvloop

from loadtests.chaos.outcomes import Outcome, outcome_of
from loadtests.chaos.scenarios import CLIENTS, Contestant, Row, Running, serving
from loadtests.chaos.soak import ROW
from loadtests.compare import load
from loadtests.compare.load import PAUSE_S, REFUSALS, Connection, Target
from loadtests.compare.regimes import Regime
from loadtests.compare.wire import post, read_vitrine
from loadtests.server import EXPLAINER_LOADS_S

Kind = Literal["pictures", "explanations", "row batches"]
KINDS: tuple[Kind, ...] = ("pictures", "explanations", "row batches")
STREAM_SHARE, ROWS_A_SECOND = 0.1, 10.0
"""The rate of a stream of pictures, or of explanations, as a share of the best of pictures; and that of single rows."""
BATCH_ROWS = 1000
SETTLING_S = 1.0
"""The time from the start of a flood to that of the streams beside it, and from its end to that of those without."""


def flood_beside_streams(
    contestant: Contestant,
    regime: Regime,
    cores: int,
    generator: Executor,
    beside: Executor,
    *,
    seconds: float,
    kind: Kind,
) -> list[Row]:
    """Ask for one kind without a pause, and for the others now and then: without the flood, beside it, and without."""
    settings = {**contestant.settings, "VITRINE_MODELS": f"{regime.model},churn"}
    with serving(replace(contestant, settings=settings), regime, cores, generator) as running:
        time.sleep(EXPLAINER_LOADS_S)
        rate = STREAM_SHARE * running.best(seconds / 4)[0]
        streams = {name: target for name, target in _targets(running).items() if name != _same(kind)}
        rates = [ROWS_A_SECOND if name == "single rows" else rate for name in streams]
        ask = (list(streams.values()), rates)
        before = beside.submit(load.streams, *ask, seconds / 2).result()
        with _flood(running, kind, generator, seconds) as flooding:
            during = beside.submit(load.streams, *ask, seconds).result()
        time.sleep(SETTLING_S)
        after = beside.submit(load.streams, *ask, seconds / 2, len(rates)).result()
        memory = running.tree.memory_mib()[1]
    title = contestant.server.title
    rows = [Row(f"flood of {kind}, 16 clients", title, _flood_outcome(flooding.pop()), memory)]
    for (name, target), quiet, more, loud in zip(streams.items(), before, after, during, strict=True):
        alone, flooded = outcome_of(target, [*quiet, *more]), outcome_of(target, loud)
        rows.append(Row(f"{name} without it", title, alone))
        rows.append(Row(f"{name} beside it", title, flooded, slower=flooded.p99_ms / alone.p99_ms))
    return rows


def flood(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Counter[int]:
    """Send requests without a pause from a closed loop of clients, and return how often each status came.

    What is answered is not kept, since a flood of large answers would fill the memory; 0 counts what got no answer.
    """
    statuses, ends = Counter[int](), time.monotonic() + seconds

    async def client(place: int) -> None:
        connection = Connection()
        while time.monotonic() < ends:
            try:
                async with asyncio.timeout(load.TIMEOUT_S):
                    status = (await connection.exchange(port, requests[place % len(requests)]))[0]
            except (OSError, TimeoutError):
                connection.close()
                status = 0
            statuses[status] += 1
            place += 1
            if status != 200:
                await asyncio.sleep(PAUSE_S)
        connection.close()

    async def all_clients() -> None:
        await asyncio.gather(*(client(place) for place in range(clients)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_clients())
    return statuses


@contextmanager
def _flood(running: Running, kind: Kind, generator: Executor, seconds: float) -> Iterator[list[Counter[int]]]:
    """Flood the server while the block runs; what came of it is in the list afterwards."""
    target, statuses = running.target, list[Counter[int]]()
    requests: Sequence[bytes] = target.requests
    if kind == "explanations":
        requests = _targets(running)["explanations"].requests
    elif kind == "row batches":
        body = json.dumps({"samples": [ROW] * BATCH_ROWS}).encode()
        requests = [post("/models/churn/predict/batch", body, "application/json")]
    flooding = generator.submit(flood, target.port, requests, CLIENTS, seconds + 2 * SETTLING_S)
    time.sleep(SETTLING_S)
    yield statuses
    statuses.append(flooding.result())


def _targets(running: Running) -> dict[str, Target]:
    """Return what the streams ask for, by what it is called in the table."""
    pictures = running.target
    explained = [request.replace(b"/predict ", b"/explain ", 1) for request in pictures.requests]
    row = post("/models/churn/predict", json.dumps({"features": ROW}).encode(), "application/json")
    right = _right_row(pictures.port, row)
    return {
        "pictures": pictures,
        "explanations": pictures._replace(requests=explained),
        "single rows": Target(pictures.port, [row], [right], read_vitrine),
    }


def _right_row(port: int, row: bytes) -> dict[str, Any]:
    """Return what the server answers to a row while it is idle."""
    return read_vitrine(asyncio.run(Connection().exchange(port, row))[1])


def _same(kind: Kind) -> str:
    return "single rows" if kind == "row batches" else kind


def _flood_outcome(statuses: Counter[int]) -> Outcome:
    offered, answered, lost = statuses.total(), statuses[200], statuses[0]
    refused = sum(statuses[status] for status in REFUSALS)
    return Outcome(offered, answered, refused, offered - answered - lost - refused, lost, nan, nan)
