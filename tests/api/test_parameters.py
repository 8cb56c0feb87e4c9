"""What a query may say, and what it is told when it may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from starlette.datastructures import QueryParams

from api.explain import read_drawing
from api.parameters import read_parameters
from errors import InvalidInput
from explain.base import METHOD_NAMES
from models.card import read_image_card
from tests.conftest import SHIPPED

CARD = read_image_card(SHIPPED / "card.toml")


def test_nothing_asked_is_the_cards_own_drawing() -> None:
    assert CARD.explain is not None
    drawing = read_drawing(QueryParams(""), CARD)
    assert drawing == ("json", "overlay", -1, CARD.explain.method, 0.5, False)


@pytest.mark.parametrize(("query", "index"), [("no_stone", 0), ("stone", 1), ("0", 0), ("1", 1)])
def test_a_target_is_a_label_or_its_index(query: str, index: int) -> None:
    assert read_drawing(QueryParams({"target": query}), CARD).target == index


@pytest.mark.parametrize("query", ["", "Stone", "2", "-1", "1.0", "\u0661", "0x1", " 1"])
def test_any_other_target_is_told_the_labels(query: str) -> None:
    with pytest.raises(InvalidInput, match=r"no_stone, stone.*0 to 1"):
        read_drawing(QueryParams({"target": query}), CARD)


@given(some.text(max_size=20))
def test_no_word_but_those_listed_is_a_method(word: str) -> None:
    query = QueryParams([("method", word)])
    if word in METHOD_NAMES:
        assert read_drawing(query, CARD).method == word
    else:
        with pytest.raises(InvalidInput, match=r"gradcam, gradcam\+\+, layercam, hirescam"):
            read_drawing(query, CARD)


@given(some.floats(allow_nan=True, allow_infinity=True))
def test_alpha_is_a_number_from_0_to_1(alpha: float) -> None:
    query = QueryParams({"alpha": repr(alpha)})
    if 0 <= alpha <= 1:
        assert read_drawing(query, CARD).alpha == alpha
    else:
        with pytest.raises(InvalidInput, match="0 to 1"):
            read_drawing(query, CARD)


@pytest.mark.parametrize(
    "query", ["top_k=0", "top_k=3", "top_k=one", "threshold=2", "timeout_ms=0", "include_gradcam=perhaps"]
)
def test_a_parameter_out_of_range_is_named_with_its_value(query: str) -> None:
    name, value = query.split("=")
    with pytest.raises(InvalidInput, match=rf"{name}='{value}': must be"):
        read_parameters(QueryParams(query), CARD)
