"""The protocol that every backend keeps."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.float32]
"""Transformed items with a leading batch axis; for images (N, 3, h, w), float32."""

Logits = npt.NDArray[np.float32]
"""Shape (N, K), float32, before softmax; K in the order of the card's labels."""

Early = npt.NDArray[np.bool_]
"""Shape (N,): of which items an early exit gave the logits."""


class Backend(Protocol):
    """One loaded model on one device. `run` may be called from several threads at once."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`, `mps`."""
        ...

    def run(self, batch: Batch) -> Logits:
        """Infer one batch; row i of the logits belongs to item i of the batch."""
        ...

    def close(self) -> None:
        """Release sessions and device memory; `run` must not be called afterwards."""
        ...
