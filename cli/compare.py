"""`vitrine models compare`: an installed model beside a running service, asked for the same examples."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from cli.stores import open_store
from cli.tables import new_table, print_table
from errors import StoreError
from export.original.answers import Kind
from export.original.check import TOLERANCE, cause
from export.original.examples import Example, read_example_inputs
from export.original.fields import FIELD_NAMES, FieldName
from export.original.search import Network, Search
from export.original.service import Send, Service
from export.original.versus import Versus, compare_with_service
from models.card import Card, ImageCard
from models.package import StoredModel, verify

MOST_LISTED = 20
"""So many examples a table lists; the JSON file has all."""

MOST_SECONDS = 86_400
"""The longest that --timeout may be."""


@click.command()
@click.argument("name")
@click.option("--against", "url", required=True, help="The route of the other service that predicts, with its host.")
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="A folder of pictures, or one of them.")
@click.option(
    "--rows", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="CSV with a header, or JSON."
)
@click.option("--map", "maps", multiple=True, metavar="FIELD=PATH", help="Where its answers hold FIELD; see below.")
@click.option("--send", type=click.Choice(get_args(Send)), help="By default `multipart` for pictures, `json` for rows.")
@click.option("--field", default="", help="The name of the picture's part (`file`), or of the row within the JSON.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Sent along, such as a key.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="What its numbers are, where it does not show.")
@click.option("--tolerance", type=click.FloatRange(min=0, min_open=True), default=TOLERANCE, show_default=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="Of a request, in seconds.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there.")
@click.option("--why", is_flag=True, help="Where they do not agree: try which line of the card would make them.")
def compare(
    name: str,
    url: str,
    images: Path | None,
    rows: Path | None,
    maps: Sequence[str],
    send: Send | None,
    field: str,
    headers: Sequence[str],
    kind: Kind | None,
    tolerance: float,
    timeout_s: float,
    json_file: Path | None,
    why: bool,
) -> None:
    """Ask a running service and the installed model NAME for the same examples, and print how they differ.

    The service gets requests over HTTP; the model runs in this process, on the CPU. The exit status is 0 if they agree
    within the tolerance on every example, else 1. NAME may be name:version; without --images or --rows the goldens are
    the examples.

    \b
    --map says where the service's JSON holds something; names and places with dots between them, `.` for all of it:
      probabilities, logits   a number for each label: a list, an object, or a list with label and probability
      label                   the label's name, or its index
      confidence              the probability of that label
      scores, values          of a detector; of a regressor
    Without it the names that services usually have are looked for.
    """  # noqa: D301 - click reads the character
    store = open_store()
    stored = store.find(name)
    verify(stored)
    if not timeout_s < MOST_SECONDS:  # nan and infinity pass every range
        raise click.ClickException(f"--timeout {timeout_s}: give seconds, fewer than {MOST_SECONDS:,}.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise click.ClickException(f"--json {json_file}: there is no folder {json_file.parent}.")
    examples = _examples(stored, images, rows)
    is_picture = isinstance(stored.card, ImageCard)
    send = send or ("multipart" if is_picture else "json")
    if is_picture and send == "json":
        raise click.ClickException("--send json is for rows; a picture goes as multipart, raw or kserve.")
    if not is_picture and send in ("multipart", "raw"):
        raise click.ClickException(f"--send {send} is for pictures; a row goes as json or kserve.")
    paths = dict(map(_path, maps))
    with Service(url, send, field, dict(map(_header, headers)), timeout_s) as service:
        with click.progressbar(length=len(examples), label="Asking", hidden=not sys.stderr.isatty()) as bar:
            versus = compare_with_service(
                stored, service, examples, paths, kind=kind, tolerance=tolerance, advance=lambda: bar.update(1)
            )
    report = {"model": stored.tag, "against": url} | versus.summary(stored.card)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", "utf-8")
    _print(report, versus, stored.card)
    if not versus.agree:
        if why:
            click.echo(_why(stored, versus, examples, tolerance))
        raise SystemExit(1)


def _examples(stored: StoredModel, images: Path | None, rows: Path | None) -> list[Example]:
    takes_pictures = isinstance(stored.card, ImageCard)
    if images is not None and rows is not None:
        raise click.ClickException("--images and --rows are of two kinds of model: give one.")
    if (rows if takes_pictures else images) is not None:
        given, other = ("--rows", "--images DIR") if takes_pictures else ("--images", "--rows FILE")
        raise click.ClickException(f"{given} does not go with {stored.card.name}: give {other}.")
    return read_example_inputs(stored.card, images or rows, stored.path)


def _path(text: str) -> tuple[FieldName, str]:
    """Return field and path of one --map."""
    name, _, path = text.partition("=")
    field = next((known for known in FIELD_NAMES if known == name.strip()), None)
    if field is None or not path.strip():
        raise click.ClickException(f"--map {text}: give FIELD=PATH, with FIELD one of {', '.join(FIELD_NAMES)}.")
    return field, path.strip()


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.ClickException(f"--header {text}: give NAME:VALUE, such as 'Authorization: Bearer …'.")
    if not text.isascii() or not text.isprintable():
        raise click.ClickException(f"--header {text!r}: headers hold ASCII characters only.")
    return name.strip(), value.strip()


def _print(report: dict[str, Any], versus: Versus, card: Card) -> None:
    table = new_table(f"{report['model']} beside {report['against']}")
    table.add_row("examples", f"{report['examples']}, of which both answered {report['compared']}")
    if difference := report.get("difference"):
        figures = {"largest": "max", "mean": "mean", "median": "p50", "95 %": "p95", "99 %": "p99"}
        words = ", ".join(f"{word} {difference[key]:.1e}" for word, key in figures.items())
        table.add_row(f"difference in {report['kind']}", words)
        table.add_row("other label", str(len(report["label_flips"])))
    only_here = sum(not here for _, _, here in versus.errors)
    table.add_row("errors", f"{only_here} there alone, {len(versus.errors) - only_here} here alone")
    table.add_row("refused by both", str(versus.refused_by_both))
    times = report["median_ms"]
    table.add_row("there", f"{times['there']:.1f} ms at the median, over HTTP")
    table.add_row("here", f"{times['here']:.1f} ms at the median, in this process, CPU")
    if times["there_over_here"]:
        table.add_row("there / here", f"{times['there_over_here']:.2f}")
    print_table(table)
    if report["errors"]:
        errors = new_table("Answered by one alone", "example", "error there", "error here")
        for name, there, here in versus.errors[:MOST_LISTED]:
            errors.add_row(name, there, here)
        print_table(errors)
    if versus.difference is not None and versus.difference.apart:
        _print_apart(versus, card)
    verdict = "They agree" if versus.agree else "They do not agree"
    click.echo(f"{verdict} (tolerance {versus.difference.tolerance:g})." if versus.difference else f"{verdict}.")


def _print_apart(versus: Versus, card: Card) -> None:
    difference = versus.difference
    if difference is None:
        return
    title = f"The {len(difference.apart)} that differ, the farthest first"
    table = new_table(title, "example", "difference", "label there", "label here")
    for place in difference.apart[:MOST_LISTED]:
        flip = versus.flip(card, place)
        labels = (flip["there"], flip["here"]) if flip else ("", "")
        table.add_row(versus.compared[place], f"{difference.distance[place]:.2e}", *labels)
    print_table(table)


def _why(stored: StoredModel, versus: Versus, examples: Sequence[Example], tolerance: float) -> str:
    """Return which lines of the card would make the answers agree, or what comes nearest."""
    if versus.answers is None or versus.difference is None or versus.outputs is None or not versus.difference.apart:
        raise StoreError("There are no answers that differ, so no line of the card could be the cause.")
    compared = [example for example in examples if example.name in set(versus.compared)]
    network = Network(stored.path, stored.card, compared)
    found = Search(network, stored.card, versus.answers, tolerance).run(versus.outputs, versus.difference)
    return cause(found, len(compared))
