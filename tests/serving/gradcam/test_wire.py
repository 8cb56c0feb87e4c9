"""What crosses between a server and its Grad-CAM process comes over unchanged."""

import dataclasses
import json

import numpy as np
import pytest

from errors import InvalidImage, QueueFull, Unavailable, VitrineError
from runners.runner import Answer
from serving.gradcam.wire import (
    ExplainedPicture,
    Explanation,
    ExplanationRequest,
    answer_from_fields,
    answer_to_fields,
    answers_from_fields,
    answers_to_fields,
    fields_to_json,
    request_from_fields,
    request_to_json,
)

FIRST = Explanation(1, b"\x89PNG\xff", np.ones((2, 2), np.float32), (4, 3))
SECOND = Explanation(0, None, np.full((2, 2), 1 / 3, np.float32), (4, 3))
ANSWER = Answer(ExplainedPicture(np.array([1, 2], np.float32), 0.5, (FIRST, SECOND)), 1.0, 2.0, 3.0, 1)


def check_same(answer: Answer[ExplainedPicture] | VitrineError, expected: Answer[ExplainedPicture]) -> None:
    """Check every field, to the last bit of every number."""
    assert isinstance(answer, Answer)
    assert answer[1:] == expected[1:]
    assert np.array_equal(answer.value.logits, expected.value.logits)
    assert answer.value.sharpness == expected.value.sharpness
    for explanation, original in zip(answer.value.explanations, expected.value.explanations, strict=True):
        assert explanation.map.dtype == np.float32 and np.array_equal(explanation.map, original.map)
        assert explanation._replace(map=original.map) == original


def test_an_answer_crosses_as_it_was_and_so_does_an_error() -> None:
    check_same(answer_from_fields(answer_to_fields(ANSWER)), ANSWER)
    for error in (InvalidImage("no picture"), QueueFull("full", 17), Unavailable("loading", 9)):
        crossed = answer_from_fields(answer_to_fields(error))
        assert type(crossed) is type(error) and str(crossed) == str(error) and vars(crossed) == vars(error)


def test_the_answers_to_one_call_cross_together_or_one_error_in_their_place() -> None:
    wrong = InvalidImage("no picture")
    first, second, last = answers_from_fields(answers_to_fields([ANSWER, wrong, ANSWER]))
    check_same(first, ANSWER)
    check_same(last, ANSWER)
    assert type(second) is InvalidImage and str(second) == "no picture"
    with pytest.raises(QueueFull, match="full") as raised:
        answers_from_fields(answer_to_fields(QueueFull("full", 17)))
    assert raised.value.retry_after_s == 17


def test_as_json_it_crosses_to_another_machine_to_the_last_bit() -> None:
    ask = ExplanationRequest(bytes(range(256)), (1, 0), "gradcam++", "overlay", 0.3, at_input_size=True, threshold=0.25)
    assert request_from_fields(json.loads(json.dumps(request_to_json(ask)))) == ask
    assert request_from_fields(dataclasses.asdict(ask)) == ask
    check_same(answer_from_fields(json.loads(json.dumps(fields_to_json(answer_to_fields(ANSWER))))), ANSWER)
    crossed = answer_from_fields(json.loads(json.dumps(fields_to_json(answer_to_fields(QueueFull("full", 17))))))
    assert isinstance(crossed, QueueFull) and str(crossed) == "full"
