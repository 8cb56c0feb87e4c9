"""What a fleet of some size takes, computed from what `make fleet` measured: cores, replicas and network.

Run as `python -m loadtests.fleet.capacity`; it writes the table into docs/scale.md between its marks, and prints it.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtests.compare.report import rewrite
from loadtests.server import ROOT

MARKS = "<!-- capacity:begin -->", "<!-- capacity:end -->"
RATES = (10, 100, 1_000, 10_000)
"""Requests a second."""
BUSY = 0.7
"""The share of the processor time that a fleet is planned for; the autoscaler of deploy/kubernetes aims at the same."""
CORES = 4
"""Of a replica, as in deploy/kubernetes/overlays/cpu."""
SPARE = 1
"""Replicas more than are needed, so that one may be gone."""


class Need(NamedTuple):
    """What one model takes at one rate.

    Attributes:
        model: its name.
        rate: requests a second.
        replicas: with `CORES` cores each, one to spare.
        balancer_cores: of the balancer.
        megabits: a second into the fleet.
        decode: share of decoding in the time that a lone request takes to be decoded and computed.
    """

    model: str
    rate: int
    replicas: int
    balancer_cores: int
    megabits: float
    decode: float


def needs(measured: dict[str, Any], rates: tuple[int, ...] = RATES) -> list[Need]:
    """Return what each model takes at each rate.

    Args:
        measured: what `make fleet` has written; processor time an answer is all that is used of it, and bytes.
        rates: requests a second.
    """
    return [
        Need(
            row["model"],
            rate,
            math.ceil(rate * row["replica_ms"] / 1e3 / BUSY / CORES) + SPARE,
            math.ceil(rate * row["balancer_ms"] / 1e3 / BUSY),
            rate * row["bytes"] * 8 / 1e6,
            row["decode_ms"] / max(1e-9, row["decode_ms"] + row["infer_ms"]),
        )
        for row in measured["throughput"]
        for rate in rates
    ]


def table(rows: list[Need]) -> str:
    """Return the needs as a table in Markdown."""
    heads = ["model", "requests/s", f"replicas of {CORES} cores", "cores of the balancer", "Mbit/s in", "decoding"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in rows:
        counts = [f"{row.rate:,}", f"{row.replicas:,}", f"{row.balancer_cores:,}", f"{row.megabits:,.0f}"]
        lines.append([row.model, *counts, f"{row.decode:.0%}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--folder", default=ROOT / "docs", type=click.Path(path_type=Path), help="With what was measured.")
def main(folder: Path) -> None:
    """Compute the table from performance-data/fleet.json, and write it into scale.md."""
    measured = json.loads((folder / "performance-data" / "fleet.json").read_text("utf-8"))
    conditions = measured["conditions"].replace("\n", "; ")
    text = f"{table(needs(measured))}\n\nFrom processor time an answer, measured on: {conditions}."
    rewrite(folder / "scale.md", text, MARKS)
    click.echo(text)


if __name__ == "__main__":
    main()
