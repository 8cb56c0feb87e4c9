"""The further names of answers on a card: what they may repeat, what they may be called, and what is refused."""

import pytest
from pydantic import BaseModel

from api.schemas import AnomalyPrediction, BatchAnswer, Prediction, Regression, RowBatchAnswer, RowPrediction, TopLabel
from api.state_schemas import ModelFacts, Stats
from errors import CardError
from models.answer import answer_fields, value_at
from models.card import Card, ImageCard, RowCard, parse_card, read_card
from tests.conftest import ROOT
from tests.tiny import CARD, EXPLAINED, REGRESSOR

TEXT = CARD.format(name="tiny")
CARDS = {name: read_card(ROOT / "models" / name / "card.toml") for name in ("churn", "machine_anomaly", "cifar10")}
CARDS["prices"] = parse_card(REGRESSOR, "card.toml")


def answers_of(card: Card) -> dict[str, type[BaseModel]]:
    """Return the schema of each answer that may get further names."""
    batch = BatchAnswer if isinstance(card, ImageCard) else RowBatchAnswer
    prediction: dict[str, type[BaseModel]] = {
        "image-classification": Prediction,
        "anomaly-detection": AnomalyPrediction,
        "tabular-regression": Regression,
    }
    return {
        "also": prediction.get(card.task, RowPrediction),
        "batch_also": batch,
        "model_also": ModelFacts,
        "stats_also": Stats,
    }


@pytest.mark.parametrize("name", CARDS)
def test_what_can_be_repeated_is_what_the_answers_have(name: str) -> None:
    card = CARDS[name]
    outputs = card.outputs if isinstance(card, RowCard) else ()
    fields = answer_fields(card.task, card.labels, card.input, card.limits, outputs)
    for section, schema in answers_of(card).items():
        assert set(fields[section]) == set(schema.model_fields) - {"explanation_error", "filename"}, section


def test_a_part_of_an_answer_is_reached_with_dots() -> None:
    answer = {"metrics": {"auc": 0.5}, "features": [{"name": "a"}, {"name": "b"}], "size": (2, 3), "none": None}
    assert value_at(answer, "metrics.auc") == 0.5
    assert value_at(answer, "features.name") == ["a", "b"]
    assert (value_at(answer, "features.count"), value_at(answer, "size.count")) == (2, 2)
    assert value_at(answer, "features.unit") == [None, None]
    for source in ("metrics.f2", "absent", "none.more", "metrics.auc.more"):
        assert value_at(answer, source) is None


def test_a_part_of_an_object_is_a_field_and_never_a_method() -> None:
    ranked = TopLabel(label="bright", probability=0.75)
    assert value_at(ranked, "label") == "bright"
    assert value_at(ranked, "copy") is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            '[answer.also]\na = "predicton"',
            r"answer\.also\.a = 'predicton': there is no 'predicton'; allowed in its place: .*prediction, ",
        ),
        ('[answer.also]\na = { b = "top", c = "bottom" }', r"there is no 'bottom'; allowed in its place: .*confidence"),
        ('[answer.also]\na = "probabilities.grey"', r"there is no 'grey'; allowed in its place: bright, dark"),
        ('[answer.also]\na = "top.name"', r"there is no 'name'; allowed in its place: label, probability"),
        (
            '[answer.also]\na = "version.major"',
            r"there is no 'major'; allowed in its place: nothing, for it has no parts",
        ),
        ('[answer.also]\na = "top.count.more"', r"there is no 'more'"),
        ('[answer.also]\na = "explanation_error"', r"there is no 'explanation_error'"),
        ('[answer.also]\nconfidence = "prediction"', r"'confidence' is taken; choose a name other than .*confidence"),
        ('[answer.also]\nexplanation = "prediction"', r"'explanation' is taken"),
        ('[answer.also]\nfilename = "prediction"', r"'filename' is taken"),
        (
            '[answer.batch_also]\na = "prediction"',
            r"there is no 'prediction'; allowed in its place: batch_size, errors",
        ),
        ('[answer.batch_also]\nerrors = "batch_size"', r"'errors' is taken"),
        ('[answer.model_also]\na = "input.sizes"', r"there is no 'sizes'; allowed in its place: .*kernel"),
        ('[answer.stats_also]\na = "metrics"', r"there is no 'metrics'; allowed in its place: .*succeeded"),
        ('[answer.also]\n"a b" = "prediction"', r"answer\.also\.a b"),
        ("[answer.also]\na = 5", r"answer\.also\.a"),
        ('[answer]\nlabels = "index"', r"answer\.labels: unknown key; allowed here: also, batch, .*label"),
        ('[answer]\nlabel = "number"', r"answer\.label: .*'name' or 'index'"),
        ('[answer]\nbatch = "list"\n[answer.batch_also]\na = "errors"', r"answer\.batch_also: with batch = 'list'"),
        ("[answer]\nheatmap = true", r"answer\.heatmap: it goes with a section `explain`"),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_allowed(section: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        parse_card(f"{TEXT}\n{section}\n", "here/card.toml")


def test_the_message_about_a_wrong_name_does_not_repeat_the_card() -> None:
    with pytest.raises(CardError) as raised:
        parse_card(f'{TEXT}\n[answer.also]\na = "b"\n', "here/card.toml")
    assert "Only for tests." not in str(raised.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[answer.also]\nmachine_id = "is_anomaly"', r"'machine_id' is taken"),
        ('[answer.also]\na = "prediction"', r"there is no 'prediction'; allowed in its place: anomaly_score"),
        ('[answer.also]\na = "contributions.heat"', r"allowed in its place: power, pressure, temperature, vibration"),
        ('[answer]\nlabel = "index"', r"answer\.label: a detector answers with no label"),
    ],
)
def test_a_detector_has_names_of_its_own(section: str, message: str) -> None:
    card = (ROOT / "models" / "machine_anomaly" / "card.toml").read_text("utf-8").partition("[answer")[0]
    assert isinstance(parse_card(card, "card"), RowCard)
    with pytest.raises(CardError, match=message):
        parse_card(f"{card}\n{section}\n", "card")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ('[answer.also]\na = "confidence"', r"there is no 'confidence'; allowed in its place: .*prediction, .*units"),
        ('[answer.also]\na = "values.rent"', r"allowed in its place: price$"),
        ('[answer.also]\na = "units.rent"', r"allowed in its place: price$"),
        ('[answer.also]\nvalues = "prediction"', r"'values' is taken"),
        ('[answer]\nlabel = "index"', r"answer\.label: a regressor answers with no label"),
    ],
)
def test_a_regressor_has_names_of_its_own(section: str, message: str) -> None:
    with pytest.raises(CardError, match=message):
        parse_card(f"{REGRESSOR}\n{section}\n", "card")


def test_a_regressor_of_several_values_has_no_prediction_that_could_be_repeated_or_replaced() -> None:
    text = REGRESSOR.replace("[input]", '[[outputs]]\nname = "rent"\n\n[input]')
    parse_card(f'{text}\n[answer.also]\nmonthly = "values.rent"\n', "card")
    with pytest.raises(CardError, match="no 'prediction'"):
        parse_card(f'{text}\n[answer.also]\nmonthly = "prediction"\n', "card")
    with pytest.raises(CardError, match="'prediction' is taken"):
        parse_card(f'{text}\n[answer.also]\nprediction = "values.rent"\n', "card")
    with pytest.raises(CardError, match="no 'rent'; allowed in its place: price"):
        parse_card(f'{text}\n[answer.also]\nunit = "units.rent"\n', "card")


def test_labels_that_come_with_a_graph_are_not_known_before() -> None:
    text = (ROOT / "models" / "imagenet" / "card.toml").read_text("utf-8")
    parse_card(text.replace("[answer.also]", '[answer.also]\ndeer = "probabilities.deer"'), "card")
    with pytest.raises(CardError, match="no 'deer'; allowed in its place: cat, dog"):
        parse_card(
            text.replace("labels = []", 'labels = ["cat", "dog"]').replace(
                "[answer.also]", '[answer.also]\ndeer = "probabilities.deer"'
            ),
            "card",
        )


def test_a_card_without_the_section_answers_as_ever() -> None:
    card = parse_card(TEXT, "card")
    assert isinstance(card, ImageCard)
    assert (card.answer.label, card.answer.batch, card.answer.heatmap, card.answer.also) == (
        "name",
        "object",
        False,
        {},
    )
    heatmap = parse_card(TEXT + EXPLAINED + "\n[answer]\nheatmap = true\n", "card")
    assert isinstance(heatmap, ImageCard) and heatmap.answer.heatmap
