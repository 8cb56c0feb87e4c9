"""`make bench-limits`: what unfinished uploads hold of the server's memory, and health beside silent connections."""

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from multiprocessing import get_context
from pathlib import Path

import click

from loadtests.attackers.silent_connections import stay_silent
from loadtests.attackers.slow_uploads import ANNOUNCED_BYTES, upload_slowly
from loadtests.processes import Tree
from loadtests.server import ROOT, free_port, running
from runners.machine import conditions

Attack = Callable[..., Coroutine[None, None, None]]

UPLOADS, CONNECTIONS, DESCRIPTORS = 40, 400, 300
SETTLE_S = 6.0
"""Seconds after the start of an attack until it is measured."""
LOOKS_S = (1, 2, 5, 10, 30)
"""Seconds after the end of the uploads at which the memory is looked at again."""
TIMEOUT_S = 5.0
"""A health request that takes longer counts as failed."""


def serve_command(port: int, descriptors: int | None = None) -> list[str]:
    """Return the command that serves this folder, in a shell that limits its file descriptors if that is asked for."""
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    command = [bentoml, "serve", "--host", "127.0.0.1", "--port", str(port)]
    return command if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]


@contextlib.contextmanager
def attacked(attack: Attack, port: int, **how: float) -> Iterator[None]:
    """Attack the server from a process of its own until the block ends, once the attack has settled."""
    process = get_context("spawn").Process(target=_run, args=(attack, port, how))
    process.start()
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        process.kill()
        process.join()


def _run(attack: Attack, port: int, how: dict[str, float]) -> None:
    asyncio.run(attack("127.0.0.1", port, **how))


def measure_uploads(tree: Tree, port: int) -> list[tuple[str, float]]:
    """Return the server's memory, in MiB: at rest, beside unfinished uploads, and at some times after their end."""

    def now() -> float:
        return tree.memory_mib()[1]

    figures = [("at rest", now())]
    with attacked(upload_slowly, port, clients=UPLOADS, at_once=ANNOUNCED_BYTES - 100_000, interval_s=0.5):
        figures.append((f"beside {UPLOADS} uploads of {ANNOUNCED_BYTES / 1e6:.0f} MB, unfinished", now()))
    ended = time.monotonic()
    for seconds in LOOKS_S:
        time.sleep(ended + seconds - time.monotonic())
        figures.append((f"{seconds} s after they closed", now()))
    return figures


async def measure_health(port: int, requests: int = 100) -> tuple[list[float], int]:
    """Return the latencies of /health, each on a connection of its own, in milliseconds; and how many failed."""
    latencies_ms, failed = list[float](), 0
    for _ in range(requests):
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                status = await reader.readline()
                await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            status = b""
        if b" 200 " in status:
            latencies_ms.append((time.perf_counter() - started) * 1e3)
        else:
            failed += 1
        if failed == 10:
            break
        await asyncio.sleep(0.02)
    return latencies_ms, failed


@click.command()
def main() -> None:
    """Measure on two fresh servers, one of them with few file descriptors."""
    click.echo(conditions())
    settings = {"VITRINE_MODELS": "kidney-stone", "VITRINE_EXPLAIN": "false"}
    port = free_port()
    with running(serve_command(port), ROOT, port, 120, settings) as (tree, _):
        for name, mib in measure_uploads(tree, port):
            click.echo(f"{mib:8.0f} MiB  {name}")
    port, grpc_port = free_port(), free_port()
    settings |= {"VITRINE_GRPC_PORT": str(grpc_port)}
    with running(serve_command(port, DESCRIPTORS), ROOT, port, 120, settings):
        with attacked(stay_silent, port, clients=CONNECTIONS):
            latencies_ms, failed = asyncio.run(measure_health(port))
    median, worst = (statistics.median(latencies_ms), max(latencies_ms)) if latencies_ms else (float("nan"),) * 2
    click.echo(
        f"/health beside {CONNECTIONS} silent connections, {DESCRIPTORS} file descriptors: "
        f"{len(latencies_ms)} answered (median {median:.1f} ms, slowest {worst:.1f} ms), {failed} failed"
    )


if __name__ == "__main__":
    main()
