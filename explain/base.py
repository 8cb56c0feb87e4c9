"""The protocol that every explainer keeps."""

from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

MethodName = Literal["gradcam", "gradcam++", "layercam", "hirescam"]
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
"""What `explain.methods.METHODS` defines; here, so that serving can list them without PyTorch."""

PREDICTED = -1
"""The target that means: whatever class has the highest logit."""


class Explanation(NamedTuple):
    """Of one batch. logits: (N, K) float32. maps: by method, (N, h, w) float32 ≥ 0, not normalised."""

    logits: Float32Array
    maps: dict[str, Float32Array]


class Explainer(Protocol):
    """One model on one device that gives logits and maps. `run` may be called from several threads at once."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`, `mps`."""
        ...

    def run(self, batch: Float32Array, targets: Int64Array, methods: frozenset[str]) -> Explanation:
        """Explain a batch, (N, 3, h, w) float32, each item for its own target class, (N,) int64, or `PREDICTED`."""
        ...

    def close(self) -> None:
        """Release what it holds; `run` must not be called afterwards."""
        ...
