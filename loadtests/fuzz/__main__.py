"""Sends mutants of every format to a real server, then hostile clients of every kind, and watches another client.

Run as `python -m loadtests.fuzz`. The exit code is 1 if an answer was a 500 or none, if the other client had to wait,
or if the memory grew too far. What was answered so is kept below `--out`, and the same `--seed` makes the same mutants.
"""

import http.client
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import click
import cv2
import numpy as np
from rich.progress import Progress

from loadtests.figures import encode_jpeg
from loadtests.fuzz.attacks import CLIENTS, KINDS, run_attacks
from loadtests.fuzz.bystander import PREDICT_LIMIT_MS, Bystander
from loadtests.fuzz.files import seeds
from loadtests.fuzz.mutants import mutants
from loadtests.processes import Tree
from loadtests.server import EXPLAINER_LOADS_S, free_port, serving
from runners.machine import conditions

SENDERS = 3
EXPLAINED_EVERY = 10
"""Every tenth mutant is to be explained, the others to be predicted."""
MOST_MORE_MIB = 700.0
"""How far the memory of all processes may rise above its rest."""
LOOK_EVERY_S = 0.2
EXPECTED = {200, 400, 413, 429, 503, 504}
TIMEOUT_S = 60.0


class Reply(NamedTuple):
    """What became of one mutant; status 0 stands for no answer."""

    seconds: float
    status: int
    size: int
    kind: str
    number: int


def photo() -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return a smooth RGB picture, shape (48, 64, 3)."""
    noise = np.random.default_rng(5).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


def send_all(port: int, numbered: Iterator[tuple[int, tuple[str, bytes]]], count: int, out: Path) -> list[Reply]:
    """Send every mutant, `SENDERS` at a time, and keep those that get no proper answer."""
    replies, turn = list[Reply](), threading.Lock()
    with Progress() as bar:
        task = bar.add_task("mutants", total=count)

        def loop() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
            while True:
                with turn:
                    number, (kind, data) = next(numbered, (-1, ("", b"")))
                if number < 0:
                    return
                path, started = "/predict" if number % EXPLAINED_EVERY else "/explain", time.perf_counter()
                try:
                    connection.request("POST", path, data)
                    response = connection.getresponse()
                    response.read()
                    status = response.status
                except (OSError, http.client.HTTPException):
                    connection.close()
                    status = 0
                replies.append(Reply(time.perf_counter() - started, status, len(data), kind, number))
                if status not in EXPECTED:
                    out.mkdir(parents=True, exist_ok=True)
                    (out / f"{number}-{status}.{kind.lower()}").write_bytes(data)
                bar.advance(task)

        threads = [threading.Thread(target=loop) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return replies


def print_replies(replies: list[Reply]) -> None:
    """Print how many were answered how, by format, and the slowest and the largest."""
    formats = sorted({reply.kind for reply in replies})
    for kind in formats:
        counts = Counter(reply.status for reply in replies if reply.kind == kind)
        click.echo(f"{kind:>5}: " + ", ".join(f"{number:,} × {status}" for status, number in sorted(counts.items())))
    refused = sum(reply.status in (400, 413) for reply in replies)
    click.echo(f"refused: {refused:,} of {len(replies):,}")
    for title, ordered in (("slowest", sorted(replies)), ("largest", sorted(replies, key=lambda reply: reply.size))):
        for reply in ordered[-3:]:
            click.echo(
                f"{title}: number {reply.number}, {reply.kind}, {reply.size:,} bytes, {reply.status} "
                f"after {reply.seconds * 1e3:.0f} ms"
            )


def attack(port: int, seconds: float, tree: Tree) -> tuple[float, float]:
    """Attack for so many seconds; return the memory of all processes at rest, and the most meanwhile, in MiB."""
    context = get_context("spawn")
    ready = context.Event()
    process = context.Process(target=run_attacks, args=(port, ready), daemon=True)
    process.start()
    ready.wait(300)
    rest = most = tree.memory_mib()[1]
    ends = time.monotonic() + seconds
    with Progress() as bar:
        task = bar.add_task("attackers", total=seconds)
        while (left := ends - time.monotonic()) > 0:
            most = max(most, tree.memory_mib()[1])
            bar.update(task, completed=seconds - left)
            time.sleep(LOOK_EVERY_S)
    process.kill()
    process.join()
    return rest, most


@click.command()
@click.option("--count", default=20_000, show_default=True, help="How many mutants to send.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same mutants.")
@click.option("--seconds", default=60.0, show_default=True, help="How long the hostile clients attack; 0 for not.")
@click.option("--out", default=Path("runs/fuzz"), type=click.Path(path_type=Path), show_default=True)
def main(count: int, seed: int, seconds: float, out: Path) -> None:
    """Attack a fresh server of kidney-stone."""
    click.echo(conditions())
    port, body, problems = free_port(), encode_jpeg(np.asarray(cv2.resize(photo(), (512, 512)), np.uint8)), list[str]()
    with serving(port, {"VITRINE_MODELS": "kidney-stone"}) as (tree, _):
        time.sleep(EXPLAINER_LOADS_S)
        with Bystander(port, body) as alone:
            time.sleep(5.0)
        click.echo(f"the other client, alone (number: median / 99 % / slowest): {alone.latencies.summary()}")
        if count:
            numbered = itertools.islice(enumerate(mutants(seeds(photo()), count, seed)), count)
            with Bystander(port, body) as beside:
                replies = send_all(port, numbered, count, out)
            print_replies(replies)
            click.echo(f"the other client, beside mutants: {beside.latencies.summary()}")
            bad = Counter(reply.status for reply in replies if reply.status not in EXPECTED)
            problems += [f"{number} mutants answered {status or 'nothing'}: {out}" for status, number in bad.items()]
            problems += [f"beside mutants, {problem}" for problem in beside.latencies.problems()]
        if seconds:
            with Bystander(port, body) as attacked:
                rest, most = attack(port, seconds, tree)
            click.echo(f"the other client, beside {CLIENTS} attackers of each of {len(KINDS)} kinds: ", nl=False)
            click.echo(attacked.latencies.summary())
            click.echo(f"memory of all processes: {rest:.0f} MiB at rest, {most:.0f} MiB at most (+{most - rest:.0f})")
            # The attackers themselves take the cores by turns, so that health is held to the limit of a prediction.
            problems += [f"beside attackers, {text}" for text in attacked.latencies.problems(PREDICT_LIMIT_MS)]
            if most - rest > MOST_MORE_MIB:
                problems.append(f"the memory rose by more than {MOST_MORE_MIB:g} MiB")
    click.echo("PASSED" if not problems else "FAILED\n" + "\n".join(problems))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
