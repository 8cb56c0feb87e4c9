"""The warnings that a single answer carries."""

import pytest

from backends.base import AnsweredBy
from models.card import ImageCard, parse_card
from postprocessing.caution import image_warnings
from tests.tiny import CARD, EXITS


@pytest.fixture
def card() -> ImageCard:
    parsed = parse_card(CARD.format(name="tiny") + EXITS, "card")
    assert isinstance(parsed, ImageCard)
    return parsed


def test_the_cards_own_warnings_come_with_every_answer(card: ImageCard) -> None:
    assert image_warnings(card, None, None, None) == ["Only for tests."]
    assert image_warnings(card, 1.0, "network", 0.5) == ["Only for tests."]
    image_warnings(card, 0.0, None, None)
    assert list(card.warnings) == ["Only for tests."]  # no answer adds to the card itself


def test_a_picture_under_the_cards_sharpness_is_called_blurry(card: ImageCard) -> None:
    warnings = image_warnings(card, 0.99, None, None)
    assert warnings[1:] == ["The picture is blurry (sharpness 1, under 1): trust this less."]
    indifferent = card.model_copy(update={"input": card.input.model_copy(update={"blur_below": None})})
    assert image_warnings(indifferent, 0.0, None, None) == ["Only for tests."]


@pytest.mark.parametrize(
    ("answered_by", "threshold", "is_warned"),
    [
        *(("early_exit", threshold, True) for threshold in (0.0, 0.019, 0.981)),
        *(("early_exit", threshold, False) for threshold in (None, 0.02, 0.5, 0.98)),
        *(("network", threshold, False) for threshold in (None, 0.0, 0.5)),
        (None, 0.0, False),
    ],
)
def test_an_early_answer_warns_of_a_threshold_that_its_exit_was_not_chosen_for(
    card: ImageCard, answered_by: AnsweredBy | None, threshold: float | None, is_warned: bool
) -> None:
    warnings = image_warnings(card, 2.0, answered_by, threshold)
    assert len(warnings) == 1 + is_warned
    if is_warned:
        assert f"meant for thresholds from 0.02 to 0.98: at {threshold:g}" in warnings[1]
