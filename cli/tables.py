"""Tables that the commands print: keys and values, and a model's measured quality."""

import sys
from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table

_SHOWN = ("auc", "sensitivity", "specificity")
"""Figures of a stratum that have a column each."""


def new_table(title: str, *columns: str) -> Table:
    """Return a table with a frame in a terminal, and bare columns in a pipe."""
    frame = box.ROUNDED if sys.stdout.isatty() else None
    return Table(*columns, title=title, title_justify="left", show_header=bool(columns), box=frame)


def print_table(table: Table) -> None:
    """Print a table; names and texts in it come from cards, so that no markup in them counts."""
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width to wrap at
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def print_values(title: str, values: Mapping[str, object]) -> None:
    """Print keys and values as a table; nothing if there are none."""
    table = new_table(title)
    for key, value in values.items():
        table.add_row(key, _text(value))
    if values:
        print_table(table)


def print_quality(metrics: Mapping[str, object], title: str = "Measured quality") -> None:
    """Print a report's metrics: the figures with their intervals, then those of its strata and of other data.

    Args:
        metrics: name → value, with the interval of a figure under `NAME_ci95`. A section `strata` has such figures for
            each stratum; any other section is printed as a table of its own.
        title: of the table.
    """
    figures = {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}
    table = new_table(title, "figure", "value", "95 % interval")
    for key, value in figures.items():
        if not key.endswith("_ci95"):
            table.add_row(key, str(value), _interval(figures.get(f"{key}_ci95")))
    if figures:
        print_table(table)
    for key, section in metrics.items():
        if key == "strata" and isinstance(section, Mapping):
            _print_strata(section, f"{title}, by stratum")
        elif isinstance(section, Mapping):
            print_quality(section, f"{title}: {key.replace('_', ' ')}")


def _print_strata(strata: Mapping[str, Mapping[str, object]], title: str) -> None:
    table = new_table(title, "stratum", *_SHOWN, "n", "scans")
    for name, row in strata.items():
        cells = [f"{row[key]} ({_interval(row.get(f'{key}_ci95'))})" if key in row else "" for key in _SHOWN]
        table.add_row(name, *cells, str(row.get("n", "")), str(row.get("scans", "")))
    print_table(table)


def _interval(limits: object) -> str:
    return f"{limits[0]} to {limits[1]}" if isinstance(limits, list) and len(limits) == 2 else ""


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {part}" for key, part in value.items())
    if isinstance(value, tuple):
        return "\n".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
