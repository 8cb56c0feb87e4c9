"""What a query may ask, and what the answer says where it may not."""

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as some

from api.parameters import DetectorQuery, ExplanationQuery, PredictionQuery, prediction_query
from errors import InvalidInput
from explain.base import METHOD_NAMES
from models.card import read_card, read_image_card
from serving.gradcam.wire import ExplanationRequest
from serving.predictions import PredictionParameters
from tests.conftest import ROOT, SHIPPED

CARD = read_image_card(SHIPPED / "card.toml")
CIFAR = read_image_card(ROOT / "models" / "cifar10" / "card.toml")
DETECTOR = read_card(ROOT / "models" / "machine_anomaly" / "card.toml")


def encoded(**parameters: str) -> bytes:
    """Return parameters as a query string."""
    return urlencode(parameters).encode()


def request_of(query: bytes) -> ExplanationRequest:
    """Return the request for an explanation of the picture b"data"."""
    assert CARD.explain is not None
    return ExplanationQuery.read(query, CARD).request(b"data", CARD, CARD.explain.method)


def test_an_empty_query_asks_for_the_cards_own_explanation() -> None:
    assert CARD.explain is not None
    request = request_of(b"")
    assert request == ExplanationRequest(b"data", (), CARD.explain.method, "overlay", 0.5, at_input_size=False)
    assert ExplanationQuery.read(b"", CARD).format == "json"


def test_an_empty_query_asks_for_as_many_labels_as_are_worth_reading() -> None:
    assert PredictionQuery.read(b"", CARD).parameters(CARD) == PredictionParameters(None, 1)
    assert PredictionQuery.read(b"", CIFAR).parameters(CIFAR) == PredictionParameters(None, 3)


def test_every_parameter_reaches_the_core() -> None:
    query = b"threshold=0.25&top_k=2&include_gradcam=TRUE&timeout_ms=1500&unknown=x"
    read = PredictionQuery.read(query, CARD)
    assert read.parameters(CARD) == PredictionParameters(0.25, 2, with_heatmap=True)
    assert read.timeout_ms == 1500
    query = b"target=stone&method=hirescam&output=heatmap&alpha=0.25&size=input&threshold=0.75"
    assert request_of(query) == ExplanationRequest(
        b"data", (1,), "hirescam", "heatmap", 0.25, at_input_size=True, threshold=0.75
    )
    assert request_of(b"target=stone&target=0").targets == (1, 0)
    assert request_of(b"explain_top=2").top == 2


@pytest.mark.parametrize(("query", "index"), [("no_stone", 0), ("stone", 1), ("0", 0), ("1", 1)])
def test_a_target_is_a_label_or_its_index(query: str, index: int) -> None:
    assert request_of(encoded(target=query)).targets == (index,)


@pytest.mark.parametrize("query", ["", "Stone", "2", "-1", "1.0", "\u0661", "0x1", " 1"])
def test_any_other_target_is_told_the_labels(query: str) -> None:
    with pytest.raises(InvalidInput, match=r"no_stone, stone.*0 to 1"):
        request_of(encoded(target=query))


@given(some.text(max_size=20))
def test_no_word_but_those_listed_is_a_method(word: str) -> None:
    query = encoded(method=word)
    if word.replace(" ", "+") in METHOD_NAMES:
        assert request_of(query).method == word.replace(" ", "+")
    else:
        with pytest.raises(InvalidInput, match=r"gradcam, gradcam\+\+, layercam, hirescam"):
            request_of(query)


def test_a_plus_sign_that_the_address_turned_into_a_space_is_still_one() -> None:
    assert request_of(b"method=gradcam++").method == "gradcam++"


@given(some.floats(allow_nan=True, allow_infinity=True))
def test_alpha_is_a_number_from_0_to_1(alpha: float) -> None:
    query = encoded(alpha=repr(alpha))
    if 0 <= alpha <= 1:
        assert request_of(query).alpha == alpha
    else:
        with pytest.raises(InvalidInput, match="0 to 1"):
            request_of(query)


@pytest.mark.parametrize(
    "query",
    [
        *("top_k=0", "top_k=3", "top_k=one", "top_k=1.5", "top_k=1.0", "threshold=2", "threshold=nan", "threshold=x"),
        *("timeout_ms=0", "timeout_ms=-1", "timeout_ms=inf", "include_gradcam=perhaps"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_value(query: str) -> None:
    name, value = query.split("=")
    with pytest.raises(InvalidInput, match=rf"{name}='{value}': must be"):
        PredictionQuery.read(query.encode(), CARD)


NO_NUMBERS = (
    "",
    " 1",
    "1 ",
    "\u0661",
    "\uff11",
    "0_1",
    "0x1",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "Infinity",
    "1,0",
    "1\n",
    "true",
)
"""What is no number in ASCII, or none that is finite; Python's own reading takes most of them."""


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["threshold", "top_k", "timeout_ms", "alpha"])
def test_a_number_is_written_in_ascii(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{name}=.*: must be a (whole )?number from "):
        ExplanationQuery.read(encoded(**{name: value}), CARD)


@pytest.mark.parametrize(("value", "number"), [("0.25", 0.25), (".5", 0.5), ("1.", 1), ("5e-1", 0.5), ("+1E-2", 0.01)])
def test_every_usual_way_to_write_a_number_is_taken(value: str, number: float) -> None:
    query = ExplanationQuery.read(encoded(threshold=value, alpha=value), CARD)
    assert (query.threshold, query.alpha) == (number, number)


def test_top_k_names_the_number_of_labels_whatever_is_wrong_with_it() -> None:
    for value in ("0", "3", "x", "1.0"):
        with pytest.raises(InvalidInput, match=f"top_k='{value}': must be a whole number from 1 to 2"):
            PredictionQuery.read(encoded(top_k=value), CARD)


def test_a_map_is_no_picture() -> None:
    with pytest.raises(InvalidInput, match="a map is numbers, no PNG"):
        request_of(b"format=png&output=map")


def test_a_detectors_threshold_is_a_score_above_0() -> None:
    assert prediction_query(CARD) is PredictionQuery and prediction_query(DETECTOR) is DetectorQuery
    assert DetectorQuery.read(b"threshold=1000", DETECTOR).parameters(DETECTOR).threshold == 1000
    with pytest.raises(InvalidInput, match="threshold='0': must be a number from 1e-09 to 1,000,000,000"):
        DetectorQuery.read(b"threshold=0", DETECTOR)


@pytest.mark.parametrize(
    ("query", "name", "meant"),
    [(b"topk=2", "topk", "top_k"), (b"include_gradcm=true", "include_gradcm", "include_gradcam")],
)
def test_a_name_that_nearly_is_a_parameters_is_refused_with_that_name(query: bytes, name: str, meant: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^{name}: .* Did you mean {meant}\?$"):
        PredictionQuery.read(query, CARD)
    assert PredictionQuery.read(b"confidence_threshold=0.9&v=3&version=ab", CARD) == PredictionQuery.read(b"", CARD)
