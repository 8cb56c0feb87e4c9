"""What the tests of KServe's and TorchServe's routes send and expect, and the models that they ask."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from tests.api.conftest import bundled, client_maker
from tests.local_gradcam import local_gradcam
from tests.tiny import logits_of_plain, seal, tiny_package


@contextmanager
def explaining_client(folder: Path) -> Iterator[TestClient]:
    """Give the application over a model with explanations, the default one, and over two of rows."""
    tiny = seal(tiny_package(folder / "tiny", explained=True))
    with local_gradcam(tiny) as (explainer, _), client_maker() as make:
        yield make(tiny, bundled(folder, "churn"), bundled(folder, "machine_anomaly"), explainer=explainer)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def probabilities(level: int) -> list[float]:
    """The probabilities of a flat grey picture, worked out from the tiny graph's weights: dark, bright."""
    powers = np.exp(logits_of_plain(level).astype(np.float64))
    return [float(power) for power in powers / powers.sum()]
