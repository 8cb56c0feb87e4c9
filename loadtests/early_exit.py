"""`make bench-early-exit`: kidney-stone with its early exit beside without, and beside raw fp32, in the same run.

The pictures are phantoms as they come; the share that is answered early is read from the answers.
"""

import json
import statistics
import urllib.request

import click
import cv2
from tqdm import tqdm

from loadtests.bench import MODEL, payloads, raw, served
from loadtests.server import ROOT, bentoml_serve, free_port, running
from models.store import installed
from runners.machine import conditions
from runners.plan import cores

PICTURES = 200


def share_of(port: int, images: list[bytes]) -> float:
    """How many of the pictures are answered early."""
    early = 0
    for image in tqdm(images, desc="who answers"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", image, timeout=60) as reply:
            early += json.load(reply)["answered_by"] == "early_exit"
    return early / len(images)


@click.command()
@click.option("--seconds", default=8.0, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=5, show_default=True, help="Rounds; medians are printed.")
def bench(seconds: float, rounds: int) -> None:
    """Images a second at 16 clients, and at one."""
    cv2.setNumThreads(1)
    images, ports, tags = payloads(PICTURES), {}, {}
    for variant in ("fp32", "early-exit"):
        found = [stored for stored in installed() if (stored.card.name, stored.variant) == (MODEL, variant)]
        if not found:
            raise click.ClickException(f"import {MODEL} with --variant {variant} first: `make bench-early-exit` does")
        ports[variant], tags[variant] = free_port(), found[0].tag
    names = ["raw best", *(f"{variant} {clients}" for clients in (16, 1) for variant in ports)]
    columns: dict[str, list[float]] = {name: [] for name in names}
    off = {"VITRINE_EXPLAIN": "false", "VITRINE_DEFAULT_MODEL": MODEL}
    plain, exits = ({**off, "VITRINE_MODELS": tags[variant]} for variant in ports)
    with (
        running(bentoml_serve(ports["fp32"]), ROOT, ports["fp32"], 120, plain),
        running(bentoml_serve(ports["early-exit"]), ROOT, ports["early-exit"], 120, exits),
    ):
        share = share_of(ports["early-exit"], images)
        for _ in tqdm(range(rounds), desc="rounds"):
            columns["raw best"].append(raw(images, cores(), 1, seconds))
            for clients in (16, 1):
                for variant, port in ports.items():
                    columns[f"{variant} {clients}"].append(served(port, images, clients, seconds))
    click.echo(conditions())
    click.echo(f"{tags['fp32']} and {tags['early-exit']}; {rounds} rounds of {seconds:g} s, median (min-max)")
    click.echo(f"answered early: {share:.1%} of {PICTURES} pictures")
    for name, values in columns.items():
        click.echo(f"{name:>13}: {statistics.median(values):6.1f} images/s ({min(values):.1f}-{max(values):.1f})")
    for ours, theirs in (("early-exit 16", "raw best"), ("early-exit 16", "fp32 16"), ("early-exit 1", "fp32 1")):
        ratios = [mine / other for mine, other in zip(columns[ours], columns[theirs], strict=True)]
        click.echo(f"{ours} / {theirs}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    bench()
