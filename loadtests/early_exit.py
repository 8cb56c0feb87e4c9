"""`make bench-early-exit`: kidney-stone with its early exit beside without, and beside raw fp32, in the same run.

The pictures are phantoms as they are drawn; the share that the early exit answers is read from the answers.
"""

import json
import urllib.request
from functools import partial

import click
import cv2
from tqdm import tqdm

from loadtests.bench import MODEL, phantoms, raw_rate
from loadtests.clients import served_rate
from loadtests.figures import measure_in_turns, measurement_options, median_and_range, ratios
from loadtests.server import free_port, serving
from models.store import installed
from runners.cores import available_cores
from runners.machine import conditions

PICTURES = 200


def share_answered_early(port: int, images: list[bytes]) -> float:
    """Return the share of the pictures that the early exit answers, from 0 to 1."""
    early = 0
    for image in tqdm(images, desc="who answers"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", image, timeout=60) as reply:
            early += json.load(reply)["answered_by"] == "early_exit"
    return early / len(images)


@click.command()
@measurement_options(seconds=8.0, rounds=5)
def bench(seconds: float, rounds: int) -> None:
    """Images a second at 16 clients, and at one."""
    cv2.setNumThreads(1)
    images, ports, tags = phantoms(PICTURES), {}, {}
    for variant in ("fp32", "early-exit"):
        matching = [stored for stored in installed() if (stored.card.name, stored.variant) == (MODEL, variant)]
        if not matching:
            raise click.ClickException(f"import {MODEL} with --variant {variant} first: `make bench-early-exit` does")
        ports[variant], tags[variant] = free_port(), matching[0].tag
    measurements = {"raw best": partial(raw_rate, images, available_cores(), 1, seconds)}
    for clients in (16, 1):
        for variant, port in ports.items():
            measurements[f"{variant} {clients}"] = partial(served_rate, port, images, clients, seconds)
    common = {"VITRINE_EXPLAIN": "false", "VITRINE_DEFAULT_MODEL": MODEL}
    with (
        serving(ports["fp32"], common | {"VITRINE_MODELS": tags["fp32"]}),
        serving(ports["early-exit"], common | {"VITRINE_MODELS": tags["early-exit"]}),
    ):
        share = share_answered_early(ports["early-exit"], images)
        rates = measure_in_turns(measurements, rounds)
    click.echo(conditions())
    click.echo(f"{tags['fp32']} and {tags['early-exit']}; {rounds} rounds of {seconds:g} s, median (min-max)")
    click.echo(f"answered early: {share:.1%} of {PICTURES} pictures")
    for name, values in rates.items():
        click.echo(f"{name:>13}: {median_and_range(values, ' images/s', 6)}")
    for ours, theirs in (("early-exit 16", "raw best"), ("early-exit 16", "fp32 16"), ("early-exit 1", "fp32 1")):
        click.echo(f"{ours} / {theirs}: {median_and_range(ratios(rates[ours], rates[theirs]), '', digits=2)}")


if __name__ == "__main__":
    bench()
