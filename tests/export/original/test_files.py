"""What the original gave is read from JSON and CSV as people write them, and what it is shows in its values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import StoreError
from export.original.answers import Answers, Kind, read_answers
from export.original.examples import Example, read_example_inputs
from export.original.fields import fields_of, part_at
from export.original.files import match, read_expected
from models.card import Card, parse_card
from preprocessing.row_spec import RowInput
from tests.conftest import ROOT
from tests.export.original.pictures import CARD, LABELS

ZOO = parse_card(CARD, "card.toml")
BINARY = parse_card(CARD.replace('"cat", "dog", "fox"', '"bad", "good"'), "card.toml")
PICTURES = [Example(name, b"") for name in ("a/cat 1.jpg", "a/2.png", "b/3.png")]


def read(tmp_path: Path, text: str, card: Card = ZOO, kind: Kind | None = None) -> Answers:
    """The answers in a file for three pictures."""
    (tmp_path / "file").write_text(text)
    matched = match(read_expected(tmp_path / "file"), PICTURES, tmp_path / "file")
    fields = {PICTURES[place].name: fields_of(answer, {}, card.labels) for place, answer in sorted(matched.items())}
    return read_answers(fields, card, kind, "file")


PROBABILITIES = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]]


@pytest.mark.parametrize(
    "text",
    [
        '{"a/cat 1.jpg": [0.7, 0.2, 0.1], "2.png": [0.1, 0.8, 0.1], "3": [0.25, 0.25, 0.5]}',
        '[{"file": "cat 1.jpg", "probabilities": [0.7, 0.2, 0.1]},'
        ' {"file": "3.png", "probabilities": [0.25, 0.25, 0.5]}, {"file": "2.png", "probabilities": [0.1, 0.8, 0.1]}]',
        "[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]]",
        '{"cat 1": {"dog": 0.2, "cat": 0.7, "fox": 0.1}, "2": {"dog": 0.8, "cat": 0.1, "fox": 0.1},'
        ' "3": {"dog": 0.25, "cat": 0.25, "fox": 0.5}}',
        "file,dog,cat,fox\nb/3.png,0.25,0.25,0.5\na/2.png,0.8,0.1,0.1\ncat 1.jpg,0.2,0.7,0.1\n",
        "cat 1.jpg;0.7;0.2;0.1\n2.png;0.1;0.8;0.1\n3.png;0.25;0.25;0.5\n",
        "0.7,0.2,0.1\n0.1,0.8,0.1\n0.25,0.25,0.5\n",
        ",0,1,2\ncat 1.jpg,0.7,0.2,0.1\n2.png,0.1,0.8,0.1\n3.png,0.25,0.25,0.5\n",
        "70,20,10\n10,80,10\n25,25,50\n",
    ],
)
def test_probabilities_are_read_in_any_of_these_forms(tmp_path: Path, text: str) -> None:
    answers = read(tmp_path, text)
    assert answers.kind == "probabilities" and answers.names == tuple(example.name for example in PICTURES)
    assert np.allclose(answers.numbers, PROBABILITIES)


@pytest.mark.parametrize(
    "text",
    [
        "file,prediction\ncat 1.jpg,cat\n2.png,fox\n3.png,dog\n",
        "cat\nfox\ndog\n",
        '["cat", "fox", "dog"]',
        "[0, 2, 1]",
        '[{"predicted_class": "cat"}, {"predicted_class": 2}, {"predicted_class": "dog"}]',
        "image,label\n2.png,2\n3.png,1\ncat 1.jpg,0\n",
    ],
)
def test_labels_are_read_by_name_and_by_index(tmp_path: Path, text: str) -> None:
    answers = read(tmp_path, text)
    assert answers.kind == "labels" and answers.labels == (0, 2, 1)


def test_numbers_beyond_0_to_1_are_logits_and_those_between_that_miss_1_are_asked_about(tmp_path: Path) -> None:
    assert read(tmp_path, "[[3, -1, 0.5], [0, 1, 2], [0.1, 0.2, 0.3]]").kind == "logits"
    unclear = "[[0.5, 0.5, 0.5], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]"
    with pytest.raises(StoreError, match="may be logits, or probabilities of labels that do not exclude one another"):
        read(tmp_path, unclear)
    assert read(tmp_path, unclear, kind="logits").kind == "logits"


def test_the_most_probable_labels_alone_leave_the_others_open(tmp_path: Path) -> None:
    top = '[{"top": [{"label": "fox", "probability": 0.9}]}, {"prediction": "dog", "confidence": 0.6}, {"cat": 0.8}]'
    answers = read(tmp_path, top)
    assert answers.kind == "probabilities"
    expected = np.array([[np.nan, np.nan, 0.9], [np.nan, 0.6, np.nan], [0.8, np.nan, np.nan]])
    assert np.allclose(answers.numbers, expected, equal_nan=True)


def test_one_number_for_two_labels_is_the_second_ones(tmp_path: Path) -> None:
    assert np.allclose(read(tmp_path, "[0.9, 0.25, 0.5]", BINARY).numbers, [[0.1, 0.9], [0.75, 0.25], [0.5, 0.5]])
    logits = read(tmp_path, "[[2.5], [-1], [0.5]]", BINARY, "logits")
    assert logits.kind == "logits" and np.allclose(logits.numbers, [[0.0, 2.5], [0.0, -1.0], [0.0, 0.5]])
    assert read(tmp_path, "[true, false, true]", BINARY).labels == (1, 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a/cat 1.jpg": [0.7, 0.3]}', "2 numbers, but the card has 3 of them: cat, dog, fox"),
        ('{"4.png": [0.7, 0.2, 0.1]}', r"4\.png \(1 of 1\) is the name of no example, or of several"),
        ("[[0.7, 0.2, 0.1]]", "1 answers for 3 examples and does not say whose they are"),
        ('["cat", "wolf", "dog"]', "a/2.png cannot be used .'wolf' is none of the labels: cat, dog, fox"),
        ("[0, 3, 1]", "there is no label 3; they are counted from 0 to 2"),
        ("file,label\n2.png,cat\n2.png,dog\n", r"2\.png stands in it twice"),
        ('{"2.png": [NaN, 0.5, 0.5]}', "nan is not finite"),
        ("[", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('["cat", {"label": 1e999}, "dog"]', "inf is none of the labels"),
        (f'["cat", 1{"0" * 400}, "dog"]', "is none of the labels"),
        (f"[[0.7, 0.2, 0.1], [1{'0' * 400}, 0, 0], [0.7, 0.2, 0.1]]", "is no number"),
        ("[]", "no answers"),
        ("a,1\nb,2,3\n", "another number of cells"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read(tmp_path, text)


def test_a_digit_that_is_no_number_is_the_name_of_no_row(tmp_path: Path) -> None:
    rows = [Example(f"row {number}", b"[]", {"x": "7"}) for number in (1, 2)]
    for key in ("²", "1" * 5000):
        (tmp_path / "expected.csv").write_text(f"row,score\n{key},0.5\n")
        with pytest.raises(StoreError, match="is the name of no example"):
            match(read_expected(tmp_path / "expected.csv"), rows, tmp_path / "expected.csv")


def test_rows_are_matched_by_number_or_by_a_column_of_theirs(tmp_path: Path) -> None:
    card = parse_card((ROOT / "models" / "churn" / "card.toml").read_text(), "card.toml")
    assert isinstance(card.input, RowInput)
    names = [feature.name for feature in card.input.features]
    (tmp_path / "rows.csv").write_text(
        f"{','.join(['customer', *names])}\nK1,42,52000,420,9,63.5,95\nK2,30,40000,100,2,20,300\n"
    )
    rows = read_example_inputs(card, tmp_path / "rows.csv", tmp_path)
    assert [row.name for row in rows] == ["row 1", "row 2"] and b"customer" not in rows[0].data
    for text in ("customer,score\nK2,0.75\nK1,0.5\n", "row,score\n1,0.75\n0,0.5\n", '{"2": 0.75, "1": 0.5}'):
        (tmp_path / "expected").write_text(text)
        entries = read_expected(tmp_path / "expected", tuple(rows[0].values))
        matched: dict[int, Any] = match(entries, rows, tmp_path / "expected")
        values = [
            next(iter(answer.values())) if isinstance(answer, dict) else answer for _, answer in sorted(matched.items())
        ]
        assert values == [0.5, 0.75], text


def test_a_path_reaches_any_part_of_an_answer_and_names_what_is_there_where_it_does_not() -> None:
    answer = {"result": [{"scores": {"cat": 0.5}}]}
    assert part_at(answer, "result.0.scores.cat") == 0.5 and part_at(answer, ".") == answer
    with pytest.raises(StoreError, match=r"The answer has no result.0.score: at 'score' there is scores"):
        part_at(answer, "result.0.score")
    assert fields_of(answer, {"probabilities": "result.-1.scores"}).numbers == {"probabilities": {"cat": 0.5}}
    assert ZOO.labels == LABELS
