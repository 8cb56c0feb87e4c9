"""What examples cannot tell of a card: another value of a key that was only assumed would agree with them as well."""

from errors import VitrineError
from export.original.answers import Answers
from export.original.changes import apply, input_changes
from export.original.comparison import compare
from export.original.search import Network
from models.assumed import Assumable
from models.card import Card, ImageCard


def find_doubts(network: Network, card: Card, answers: Answers, tolerance: float) -> dict[Assumable, str]:
    """Return the assumed keys for which another usual value agrees with all examples too.

    Args:
        network: gives the outputs for the examples.
        card: agrees with the answers.
        answers: what the original gave.
        tolerance: the largest difference that agrees.

    Returns:
        For each of these keys, what the original may do instead, as the rest of a sentence.
    """
    if not isinstance(card, ImageCard):
        return {}
    doubts = dict[Assumable, str]()
    for change in input_changes(card):
        keys = [key for key in card.assumed if key in change.values and key not in doubts]
        changed = apply(card, [change])
        if keys and changed is not None and _agrees(network, changed, answers, tolerance):
            doubts |= dict.fromkeys(keys, change.cause)
    return {key: doubts[key] for key in card.assumed if key in doubts}


def _agrees(network: Network, card: Card, answers: Answers, tolerance: float) -> bool:
    try:
        return not any(  # the first example alone tells most values apart, so it alone is kept decoded
            compare(network.outputs(card, [place], keep=place == 0), answers.chosen([place]), card, tolerance).apart
            for place in range(len(answers.names))
        )
    except VitrineError:  # the card with the change refuses an example
        return False
