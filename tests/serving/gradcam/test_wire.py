"""What crosses between a server and its Grad-CAM process comes over unchanged."""

import dataclasses
import json

import numpy as np
import pytest

from errors import InvalidImage, QueueFull, Unavailable
from runners.runner import Answer
from serving.gradcam.wire import (
    Explanation,
    ExplanationRequest,
    answer_from_fields,
    answer_to_fields,
    fields_to_json,
    request_from_fields,
    request_to_json,
)

ANSWER = Answer(
    Explanation(np.array([1, 2], np.float32), 1, b"png", np.ones((2, 2), np.float32), (4, 3), None), 1.0, 2.0, 3.0, 1
)


def test_an_answer_crosses_as_it_was_and_so_does_an_error() -> None:
    again = answer_from_fields(answer_to_fields(ANSWER))
    assert again[1:] == ANSWER[1:]
    assert np.array_equal(again.value.map, ANSWER.value.map)
    assert again.value._replace(logits=None, map=None) == ANSWER.value._replace(logits=None, map=None)  # type: ignore[arg-type]
    for error in (InvalidImage("no picture"), QueueFull("full", 17), Unavailable("loading", 9)):
        with pytest.raises(type(error), match=str(error)) as raised:
            answer_from_fields(answer_to_fields(error))
        assert vars(raised.value) == vars(error)


def test_as_json_it_crosses_to_another_machine_to_the_last_bit() -> None:
    ask = ExplanationRequest(bytes(range(256)), 1, "gradcam++", "overlay", 0.3, at_input_size=True, threshold=0.25)
    assert request_from_fields(json.loads(json.dumps(request_to_json(ask)))) == ask
    assert request_from_fields(dataclasses.asdict(ask)) == ask
    third = np.full((2, 2), 1 / 3, np.float32)
    for picture in (b"\x89PNG\xff", None):
        sent = ANSWER._replace(value=ANSWER.value._replace(map=third, picture=picture))
        got = answer_from_fields(json.loads(json.dumps(fields_to_json(answer_to_fields(sent)))))
        assert got.value.map.dtype == np.float32 and np.array_equal(got.value.map, third)
        assert np.array_equal(got.value.logits, sent.value.logits)
        assert got.value.picture == picture and got.value.size == (4, 3)
        assert got[1:] == sent[1:]
    with pytest.raises(QueueFull, match="full"):
        answer_from_fields(json.loads(json.dumps(fields_to_json(answer_to_fields(QueueFull("full", 17))))))
