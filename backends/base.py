"""The protocol that every backend keeps."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.float32]
"""Transformed items with a leading batch axis, float32; for images mostly (N, 3, h, w)."""

Logits = npt.NDArray[np.float32]
"""Shape (N, K), float32, before softmax; K in the order of the card's labels."""

AnsweredBy = Literal["early_exit", "network"]
"""Which part of a network with an early exit gave an item's logits."""

EARLY_EXIT: Final = "early_exit"
WHOLE_NETWORK: Final = "network"


class Outputs(NamedTuple):
    """What a backend gives for one batch.

    Attributes:
        logits: shape (N, K), float32; row i belongs to item i of the batch.
        answered_by: for each item, which part of the network answered; None for a network without an early exit.
    """

    logits: Logits
    answered_by: Sequence[AnsweredBy] | None = None


class Backend(Protocol):
    """One loaded model on one device. `run` may be called from several threads at once."""

    @property
    def runtime(self) -> Literal["onnx", "torch"]:
        """The library that computes."""

    @property
    def device(self) -> str:
        """The device that it runs on: `cpu`, `cuda:0`, `mps`."""

    def run(self, batch: Batch) -> Outputs:
        """Infer one batch of shape (N, …)."""

    def close(self) -> None:
        """Release sessions and device memory; `run` must not be called afterwards."""


def check_outputs(outputs: Logits, rows: int, columns: int) -> None:
    """Return if a backend's outputs have the right shape and are finite.

    Raises:
        RuntimeError: they are not what the card promises.
    """
    if outputs.shape != (rows, columns) or not np.isfinite(outputs).all():
        raise RuntimeError(f"the backend gave outputs of shape {outputs.shape}, or some that are not finite")
