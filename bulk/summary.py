"""The summary of a run: `summary.json` with its counts, and `summary.svg`, a plot of them."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from atomic_write import atomic_write
from bulk.tally import BINS

WIDTH, HEIGHT, MARGIN = 640, 240, 40
BAR, AXIS = "#3b6ea5", "#666"


def write_summary(folder: Path, counts: Mapping[str, Any], facts: Mapping[str, Any], shown: str) -> None:
    """Write both files.

    Args:
        folder: of the output.
        counts: of `bulk.tally.added`.
        facts: what else is known of the run, such as the model's tag.
        shown: what the histogram is of.
    """
    numbers = {name: value for name, value in counts.items() if name not in ("bins", "values")}
    summary: dict[str, Any] = {**facts, **numbers}
    if counts["values"] is not None:
        summary["values"] = {"of": shown, **counts["values"]}
    else:
        edges = [round(place / BINS, 4) for place in range(BINS + 1)]
        summary["histogram"] = {"of": shown, "edges": edges, "counts": counts["bins"]}
    with atomic_write(folder / "summary.json") as file:
        file.write((json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    title = f"{facts['model']}: {counts['answered']:,} answered, {counts['errors']:,} errors"
    with atomic_write(folder / "summary.svg") as file:
        file.write(plot(counts["bins"], shown, title, counts["labels"]).encode("utf-8", "backslashreplace"))


def plot(bins: Sequence[int], shown: str, title: str, labels: Mapping[str, int]) -> str:
    """Return a histogram over [0, 1] as SVG, with the counts of the labels below its title.

    Args:
        bins: how many fall into each of equal parts of [0, 1].
        shown: what they are counts of.
        title: above the plot.
        labels: how often each label was answered.
    """
    most, inner, width = max(*bins, 1), HEIGHT - 2 * MARGIN, (WIDTH - 2 * MARGIN) / len(bins)
    bottom = MARGIN + inner
    bars = "".join(
        f'<rect x="{MARGIN + place * width + 1:.1f}" y="{bottom - inner * count / most:.1f}" '
        f'width="{width - 2:.1f}" height="{inner * count / most:.1f}" fill="{BAR}"><title>{count:,}</title></rect>'
        for place, count in enumerate(bins)
    )
    listed = ", ".join(f"{label} {count:,}" for label, count in list(labels.items())[:6])
    texts = [
        (WIDTH / 2, 16, "middle", title),
        (WIDTH / 2, 32, "middle", listed),
        (MARGIN, HEIGHT - 22, "middle", "0"),
        (WIDTH - MARGIN, HEIGHT - 22, "middle", "1"),
        (WIDTH / 2, HEIGHT - 8, "middle", shown),
        (MARGIN - 4, MARGIN + 8, "end", f"{most:,}"),
    ]
    written = "".join(
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>' for x, y, anchor, text in texts
    )
    line = f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{bottom}" y2="{bottom}" stroke="{AXIS}"/>'
    size = f'font-family="sans-serif" font-size="12" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{bars}{line}{written}</svg>\n'
