"""Warnings that one answer carries because of its picture or of how it was computed."""

from backends.base import EARLY_EXIT, AnsweredBy
from models.card import ImageCard


def image_warnings(
    card: ImageCard, sharpness: float | None, answered_by: AnsweredBy | None, threshold: float | None
) -> list[str]:
    """Return the card's warnings and those that this very answer deserves.

    Args:
        card: the model's card.
        sharpness: the picture's variance of the Laplacian; None where it was not measured.
        answered_by: the part of the network that answered; None without an early exit.
        threshold: the threshold that the client asked for; None for the card's.
    """
    warnings = list(card.warnings)
    limit = card.input.blur_below
    if limit is not None and sharpness is not None and sharpness < limit:
        warnings.append(f"The picture is blurry (sharpness {sharpness:.0f}, under {limit:.0f}): trust this less.")
    if answered_by == EARLY_EXIT and card.early_exit is not None and threshold is not None:
        low, high = card.early_exit.clear_below, card.early_exit.clear_from
        if not low <= threshold <= high:
            warnings.append(
                f"The early exit answered, which is meant for thresholds from {low:g} to {high:g}: "
                f"at {threshold:g} trust this less, or ask a version without it."
            )
    return warnings
