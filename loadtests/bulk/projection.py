"""What very many slices on many nodes would take: arithmetic from the measured figures, with prices as inputs.

`python -m loadtests.bulk.projection` prints it anew for other numbers and prices.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import click

from loadtests.server import ROOT

FIGURES = ROOT / "docs" / "performance-data" / "bulk.json"


class Assumed(NamedTuple):
    """What nobody measures here: how much there is, on what, and at which prices in dollars."""

    slices: float = 1e8
    nodes: int = 100
    cores: int = 16
    core_hour: float = 0.04
    gb_month: float = 0.023
    thousand_gets: float = 0.0004
    slice_bytes: float = 22_000


def projection(figures: dict[str, Any], assumed: Assumed) -> str:
    """Return the arithmetic as a table in Markdown.

    Args:
        figures: what `make bench-bulk` wrote.
        assumed: the rest.
    """
    slices, nodes, cores = assumed.slices, assumed.nodes, assumed.cores
    rate = figures["rate_a_core"]
    seconds = slices / (rate * cores * nodes)
    core_hours = slices / rate / 3600
    row_bytes = figures["row_bytes"]
    input_gb, output_gb = slices * assumed.slice_bytes / 1e9, slices * row_bytes / 1e9
    index_gb = slices * figures["index_bytes"] / 1e9
    rows_s = slices / seconds
    driver = rows_s / figures["driver_rows_s"]
    compute = core_hours * assumed.core_hour
    gets = slices / 1000 * assumed.thousand_gets
    storage = (input_gb + output_gb) * assumed.gb_month
    table = [
        ("rate", f"{rate:.1f} slices/s a core × {cores} × {nodes}", f"{rows_s:,.0f} slices/s"),
        ("time", f"{slices:,.0f} / {rows_s:,.0f}", f"{seconds / 60:,.0f} minutes"),
        ("compute", f"{slices:,.0f} / {rate:.1f} / 3600", f"{core_hours:,.0f} core hours"),
        ("read", f"{assumed.slice_bytes:,.0f} bytes × {slices:,.0f}", f"{input_gb:,.0f} GB"),
        (
            "network, to each node",
            f"{assumed.slice_bytes:,.0f} × {rate:.1f} × {cores} × 8",
            f"{assumed.slice_bytes * rate * cores * 8 / 1e6:,.0f} Mbit/s",
        ),
        ("written", f"{row_bytes:,.0f} bytes a row", f"{output_gb:,.1f} GB"),
        (
            "network, to the driver",
            f"{row_bytes:,.0f} × {rows_s:,.0f} × 8",
            f"{row_bytes * rows_s * 8 / 1e6:,.0f} Mbit/s",
        ),
        ("index, on the driver's disk", f"{figures['index_bytes']:.0f} bytes a row", f"{index_gb:,.1f} GB"),
        (
            "the driver's share",
            f"{rows_s:,.0f} / {figures['driver_rows_s']:,.0f} rows/s that one driver takes",
            f"{driver:.0%}" + (": use fewer nodes, or split the source into runs" if driver > 1 else ""),
        ),
        ("cost of compute", f"{core_hours:,.0f} × ${assumed.core_hour:g}", f"${compute:,.0f}"),
        ("cost of requests", f"{slices / 1000:,.0f} × ${assumed.thousand_gets:g}", f"${gets:,.0f}"),
        ("cost of storage, a month", f"{input_gb + output_gb:,.0f} GB × ${assumed.gb_month:g}", f"${storage:,.0f}"),
    ]
    lines = ["| what | from | is |", "| --- | --- | ---: |"]
    return "\n".join([*lines, *(f"| {what} | {how} | {result} |" for what, how, result in table)])


@click.command()
@click.option("--slices", default=1e8, show_default=True)
@click.option("--nodes", default=100, show_default=True)
@click.option("--cores", default=16, show_default=True, help="Of each node.")
@click.option("--core-hour", default=0.04, show_default=True, help="Dollars.")
@click.option("--gb-month", default=0.023, show_default=True, help="Dollars.")
@click.option("--thousand-gets", default=0.0004, show_default=True, help="Dollars for a thousand requests of a store.")
@click.option("--slice-bytes", default=22_000.0, show_default=True)
@click.option("--figures", type=click.Path(path_type=Path), default=FIGURES)
def main(figures: Path, **assumed: Any) -> None:
    """Print what that many slices on that many nodes would take, from the measured figures."""
    click.echo(projection(json.loads(figures.read_text("utf-8")), Assumed(**assumed)))


if __name__ == "__main__":
    main()
