"""`make bench-bulk`: bulk scoring beside a raw loop on the same cores, its memory, its cost a row, one and two nodes.

The pictures are phantoms that no split of the training uses. Raw and bulk take turns. What is printed is written to
docs/bulk.md, between its marks, with the projection; the figures go to docs/performance-data/bulk.json.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import cv2
from tqdm import tqdm

from loadtests.bench import phantoms
from loadtests.bulk import measure
from loadtests.bulk.driver import driver_cost
from loadtests.bulk.projection import Assumed, projection
from loadtests.compare.report import rewrite
from loadtests.figures import median_and_range
from loadtests.server import ROOT
from runners.cores import available_cores
from runners.machine import conditions

PICTURES, ROWS = "kidney-stone", "churn"
MARKS = "<!-- bulk:begin -->", "<!-- bulk:end -->"
FEW, MANY = 1_000, 50_000
"""Rows between which memory must not grow."""
DISTINCT = 400
"""So many phantoms are drawn; the others are those with another byte at their end, so that all files differ."""


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write different JPEGs of phantoms; drawing one takes longer than scoring it."""
    drawn, files = phantoms(min(count, DISTINCT)), list[Path]()
    for place in tqdm(range(count), desc="pictures"):
        files.append(folder / f"{place:06d}.jpg")
        files[-1].write_bytes(drawn[place % len(drawn)] + place.to_bytes(4, "big"))
    return files


def measured(count: int, rounds: int, rows: int, ray: bool) -> dict[str, Any]:
    """Take all measurements; return the figures."""
    figures: dict[str, Any] = {"conditions": conditions(), "pictures": count, "rounds": rounds, "rows": rows}
    cores = available_cores()
    with tempfile.TemporaryDirectory(prefix="vitrine-bench-") as name:
        folder = Path(name) / "pictures"
        folder.mkdir()
        files = write_pictures(folder, count)
        part_rows = max(10, count // 50)
        raw, bulk, whole, peaks = list[float](), list[float](), list[float](), list[float]()
        for _ in tqdm(range(rounds), desc="rounds"):
            raw.append(measure.raw_picture_rate(files, PICTURES, cores))
            scored = measure.score(folder, PICTURES, part_rows=part_rows)
            bulk.append(scored.rate)
            whole.append(count / scored.seconds)
            peaks.append(scored.peak_mib)
        figures |= {"raw": raw, "bulk": bulk, "bulk_whole": whole, "bulk_peak_mib": peaks}
        figures["rate_a_core"] = statistics.median(bulk) / cores
        table, memory = Path(name) / "rows.csv", dict[int, float]()
        for size in (FEW, rows):
            made = measure.write_rows(table, ROWS, size)
            scored = measure.score(table, ROWS, "--workers", "1", part_rows=FEW // 2)
            memory[size] = scored.peak_mib
        figures["memory_mib"] = memory
        raw_rows = [measure.raw_row_rate(made, ROWS) for _ in range(rounds)]
        bulk_rows = [
            measure.score(table, ROWS, "--workers", "1", part_rows=max(100, rows // 10)).rate for _ in range(rounds)
        ]
        figures |= {"raw_rows": raw_rows, "bulk_rows": bulk_rows}
        cost = driver_cost(PICTURES, rows)
        figures |= {"driver_rows_s": cost.rows_s, "row_bytes": cost.row_bytes, "index_bytes": cost.index_bytes}
        if ray:
            source, ray_rows = folder / "000???.jpg", max(5, min(count, 1000) // 50)  # a thousand of them
            figures["ray"] = {
                nodes: measure.ray_rate(source, PICTURES, nodes, ray_rows) for nodes in (1, min(2, cores))
            }
    return figures


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| what | measured |", "| --- | ---: |"]
    ratios = [one / other for one, other in zip(figures["bulk"], figures["raw"], strict=True)]
    few, many = figures["memory_mib"].values()
    over_us = 1e6 / statistics.median(figures["bulk_rows"]) - 1e6 / statistics.median(figures["raw_rows"])
    rows = [
        ("raw loop", median_and_range(figures["raw"], " pictures/s")),
        ("`vitrine score`, between its first part and its last", median_and_range(figures["bulk"], " pictures/s")),
        ("the same over the raw loop", median_and_range(ratios, "", digits=3)),
        ("`vitrine score`, its start included", median_and_range(figures["bulk_whole"], " pictures/s")),
        (f"its memory, {figures['pictures']:,} pictures", median_and_range(figures["bulk_peak_mib"], " MiB", digits=0)),
        (f"{ROWS}, raw loop of one thread", median_and_range(figures["raw_rows"], " rows/s", digits=0)),
        (f"{ROWS}, `vitrine score`", median_and_range(figures["bulk_rows"], " rows/s", digits=0)),
        (f"{ROWS}, over the raw loop, a row", f"{over_us:.1f} µs"),
        (f"{ROWS}, memory of {FEW:,} rows", f"{few:.0f} MiB"),
        (f"{ROWS}, memory of {figures['rows']:,} rows", f"{many:.0f} MiB"),
        ("what one driver writes, without a model", f"{figures['driver_rows_s']:,.0f} rows/s"),
    ]
    for nodes, rate in figures.get("ray", {}).items():
        rows.append((f"Ray, {nodes} {'node' if nodes == 1 else 'nodes'} of one core", f"{rate:.1f} pictures/s"))
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in rows)])


@click.command()
@click.option("--count", default=5000, show_default=True, help="Pictures.")
@click.option("--rounds", default=3, show_default=True, help="Rounds; medians are printed.")
@click.option("--rows", default=MANY, show_default=True, help="Rows of the cheapest model.")
@click.option("--ray/--no-ray", default=True, show_default=True, help="Whether Ray is measured on one node and on two.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs", help="Folder of bulk.md.")
def main(count: int, rounds: int, rows: int, ray: bool, out: Path) -> None:
    """Measure bulk scoring, print the table, and write it with the projection."""
    cv2.setNumThreads(1)
    began = time.monotonic()
    figures = measured(count, rounds, rows, ray)
    text = f"{conditions().replace(chr(10), '; ')}. {(time.monotonic() - began) / 60:.0f} minutes.\n\n{table(figures)}"
    assumed = Assumed()
    prices = (
        f"{assumed.slices:,.0f} slices of {assumed.slice_bytes:,.0f} bytes on {assumed.nodes} nodes of {assumed.cores} "
        f"cores as fast as these, at ${assumed.core_hour:g} for a core hour, ${assumed.gb_month:g} for a gigabyte and "
        f"month, ${assumed.thousand_gets:g} for a thousand reads:"
    )
    text += f"\n\n{prices}\n\n{projection(figures, assumed)}"
    measure.written(figures, out / "performance-data" / "bulk.json")
    rewrite(out / "bulk.md", text, MARKS)
    click.echo(text)


if __name__ == "__main__":
    main()
