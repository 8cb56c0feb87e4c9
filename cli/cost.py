"""What explanations of a model cost: measured when it is installed, and shown."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from models.cost import Cost
    from models.package import StoredModel


def measure_and_warn(stored: "StoredModel") -> None:
    """Measure what explanations of a model cost; where that fails, say so, since it is installed all the same."""
    from export.explanation_cost import measure_cost

    if problem := measure_cost(stored):
        click.echo(f"Warning: {problem}", err=True)


def print_cost(cost: "Cost") -> None:
    """Print what was measured of each method, beside a prediction."""
    from cli.tables import new_table, print_table

    table = new_table(
        "Cost of an explanation, one thread", "method", "ms", "of a prediction", "more memory, MiB", "predictions"
    )
    table.add_row("a prediction", f"{cost.prediction_ms:,.4g}", "1", "", "")
    for name, method in cost.methods.items():
        times = f"{method.ms / cost.prediction_ms:,.2f}" if cost.prediction_ms else ""
        count = "" if method.evaluations is None else f"{method.evaluations:,}"
        table.add_row(name, f"{method.ms:,.6g}", times, f"{method.memory_mb:,.1f}", count)
    print_table(table)
    click.echo(f"Measured {cost.date} on {cost.machine}")
