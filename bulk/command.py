"""The command `vitrine score`, which the image has as `python -m bulk`."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from errors import BulkError, VitrineError

if TYPE_CHECKING:
    from bulk.run import Engine, Report

FORMATS = ("jsonl", "csv", "parquet")
MOST_REASONS = 5
"""So many kinds of errors are told at the end; the summary has more."""


@click.command()
@click.argument("source")
@click.option("--model", "tag", required=True, metavar="NAME[:VERSION]", help="An installed model.")
@click.option("--out", required=True, help="The folder of the parts.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="jsonl", show_default=True)
@click.option("--column", "columns", multiple=True, metavar="NAME=COLUMN", help="What a column holds; see below.")
@click.option("--threshold", type=click.FloatRange(min=0, min_open=True), help="Used instead of the card's.")
@click.option("--top-k", type=click.IntRange(min=1), help="How many labels are listed of a model of more than 20.")
@click.option("--explain", is_flag=True, help="Draw an overlay of every picture, below --out in overlays/.")
@click.option("--summary", is_flag=True, help="Write summary.json and summary.svg beside the parts.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; what is there is not computed again.")
@click.option(
    "--part-rows", type=click.IntRange(1, 1_000_000), help="The most rows of a part: 1,000 pictures, 10,000 rows."
)
@click.option("--engine", type=click.Choice(["local", "ray"]), help="local, or with --address ray.")
@click.option("--address", metavar="HOST:PORT", help="The head of a Ray cluster that this machine is of, or auto.")
@click.option("--workers", type=click.IntRange(min=1), help="How many cores to use; by default all.")
def score(source: str, tag: str, out: str, **given: Any) -> None:
    """Score every input of SOURCE with an installed model, by the pipeline that serves it, into numbered parts.

    \b
    SOURCE is one of
      a folder of pictures, with its subfolders; or a glob, in quotes
      a .zip archive of pictures
      a .csv or .parquet file: of paths, of encoded pictures, or of rows for a model of rows
      an address of any of them in an object store, such as s3://bucket/prefix/ or gs://bucket/table.parquet

    An input that is wrong is a row with an error. Inputs that are equal are computed once. A run that was killed is
    taken up by --resume.

    \b
    --column says which column of a table holds something, where its name does not:
      path=COLUMN      paths or addresses; relative ones begin at the table's folder
      bytes=COLUMN     encoded pictures, in CSV in base64
      FEATURE=COLUMN   a feature of a model of rows
    """  # noqa: D301 - click reads the character
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every `finally` ends what it started
    try:
        report = _run(source, tag, out, given)
    except VitrineError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("Stopped. What is written is whole; --resume goes on with it.") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    _tell(report, out)
    if report.errors == report.rows:
        raise click.ClickException("Every row has an error.")


def _run(source: str, tag: str, out: str, given: dict[str, Any]) -> "Report":
    # What follows takes seconds to import, which no help should wait for.
    from bulk.model import find_model
    from bulk.progress import Shown
    from bulk.rows import Parameters
    from bulk.run import Request, run
    from serving.options import RunnerOptions
    from settings import load_settings

    if "://" in out:
        raise BulkError(f"--out {out}: the parts are written to a folder of this machine; copy them from there.")
    settings = load_settings()
    stored = find_model(tag, settings.models_dir)
    parameters = Parameters(given["threshold"], given["top_k"] or settings.top_k, given["explain"])
    parameters.check(stored.card)
    request = Request(
        source=source,
        stored=stored,
        out=Path(out),
        parameters=parameters,
        columns=dict(map(_column, given["columns"])),
        form=given["form"],
        part_rows=given["part_rows"],
        resume=given["resume"],
        summary=given["summary"],
        engine=_engine(given["engine"], given["address"]),
        address=given["address"],
        workers=given["workers"],
        options=replace(RunnerOptions.from_settings(settings.model_dump()), narrow=True),
        most_bytes=settings.max_body_bytes,
    )
    with Shown() as show:
        return run(request, show)


def _engine(engine: "Engine | None", address: str | None) -> "Engine":
    if address is not None and engine == "local":
        raise BulkError("--address is of a Ray cluster: leave --engine local out.")
    return engine or ("local" if address is None else "ray")


def _column(text: str) -> tuple[str, str]:
    name, separator, column = text.partition("=")
    if not (name and separator and column):
        raise BulkError(f"--column {text}: say NAME=COLUMN, such as path=file_name.")
    return name, column


def _tell(report: "Report", out: str) -> None:
    """Say what became of the run."""
    click.echo(
        f"{report.rows:,} rows in {out}: {report.rows - report.errors:,} answered, {report.errors:,} with an error. "
        f"{report.computed:,} inputs were computed, {report.before:,} rows were there before."
    )
    if report.ignored:
        left_out = "Files of other kinds, and links to folders, that were left out (a glob takes them)"
        click.echo(f"{left_out}: {report.ignored:,}", err=True)
    for reason, count in list(report.reasons.items())[:MOST_REASONS]:
        click.echo(f"  {count:,} × {reason}", err=True)
