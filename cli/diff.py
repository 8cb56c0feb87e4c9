"""`vitrine models diff`: two installed versions beside each other."""

from collections.abc import Sequence

import click

from cli.stores import open_store
from cli.tables import new_table, print_table
from errors import StoreError
from export.version_diff import GoldenAnswers, Pair, card_pairs, compare_goldens, file_pairs, quality_pairs
from models.package import StoredModel, verify


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
def diff(first: str, second: str) -> None:
    """Compare two installed versions: cards, files, measured quality, and answers on the goldens of both.

    A and B are name:version, where the beginning of a version will do; a name alone is its served version.
    """
    store = open_store()
    one, other = store.find(first), store.find(second)
    if one.tag == other.tag:
        raise StoreError(f"{first} and {second} are both {one.tag}. `vitrine models list` shows all versions.")
    _print_pairs("Card", card_pairs(one.card, other.card), one, other)
    _print_pairs("Files", file_pairs(one, other), one, other)
    _print_pairs("Measured quality", quality_pairs(one, other), one, other, same="no figures of either")
    for stored in (one, other):
        verify(stored)
    answers = compare_goldens(one, other)
    if isinstance(answers, str):
        click.echo(f"Answers on the goldens: not compared, {answers}.")
    else:
        _print_answers(answers, one, other)


def _print_pairs(
    title: str, pairs: Sequence[Pair], one: StoredModel, other: StoredModel, same: str = "the same"
) -> None:
    if not pairs:
        click.echo(f"{title}: {same}")
        return
    table = new_table(title, "", one.tag, other.tag)
    for pair in pairs:
        table.add_row(pair.name, *("" if value is None else str(value) for value in (pair.first, pair.second)))
    print_table(table)


def _print_answers(answers: GoldenAnswers, one: StoredModel, other: StoredModel) -> None:
    farthest = f" ({answers.farthest})" if answers.farthest else ""
    click.echo(
        f"Answers on {answers.compared} goldens of both: largest difference {answers.largest:.1e}{farthest}, "
        f"{len(answers.flips)} labels differ"
    )
    if answers.flips:
        table = new_table("Labels that differ", "golden", one.tag, other.tag)
        for flip in answers.flips:
            table.add_row(*flip)
        print_table(table)
    for name, reason in answers.refused:
        click.echo(f"{name}: one of the cards refuses it ({reason})")
