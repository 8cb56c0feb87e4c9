"""The loaded tiny model, which tests of the predictor share."""

from collections.abc import Iterator

import pytest

from serving.loaded_model import LoadedModel
from tests.serving.predicting import loaded
from tests.tiny import seal, tiny_package


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """The tiny model, which has no explanations."""
    with loaded(seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny"))) as ready:
        yield ready
