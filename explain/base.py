"""The protocol of an explainer, and the names of the methods that it offers."""

from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

MethodName = Literal["gradcam", "gradcam++", "layercam", "hirescam"]
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
"""The keys of `explain.methods.METHODS`. They are repeated here so that serving can list them without PyTorch."""

PREDICTED = -1
"""The target that stands for the class with the highest logit."""
NO_CONTRAST = -1
"""The contrast of an item whose target is explained by itself."""


class ExplainerOutputs(NamedTuple):
    """What an explainer computes for one batch.

    Attributes:
        logits: shape (N, K), float32.
        maps: method name → maps, shape (N, h, w), float32, not negative and not normalised; (h, w) is the target
            layer's size.
    """

    logits: Float32Array
    maps: dict[str, Float32Array]


class Explainer(Protocol):
    """One model on one device that computes logits and maps. Several threads may call `run` at once."""

    @property
    def runtime(self) -> Literal["onnx", "torch"]:
        """The library that computes."""

    @property
    def device(self) -> str:
        """The device that computes: `cpu`, `cuda:0` or `mps`."""

    @property
    def runs_in_parallel(self) -> bool:
        """Whether runs of several threads go on at the same time; if not, they wait for each other."""

    @property
    def takes_contrasts(self) -> bool:
        """Whether a target can be set against another class; graphs of an older Vitrine have no input for it."""

    def run(
        self, batch: Float32Array, targets: Int64Array, methods: frozenset[str], contrasts: Int64Array | None = None
    ) -> ExplainerOutputs:
        """Compute the logits of a batch and one map for each item and method.

        What is explained of an item is the logit of its target, or how far it is above the logit of its contrast.

        Args:
            batch: transformed pictures, shape (N, 3, h, w), float32.
            targets: the class that each item is explained for, or `PREDICTED`; shape (N,), int64.
            methods: names out of `METHOD_NAMES`.
            contrasts: the class that each item's target is set against, or `NO_CONTRAST`; shape (N,), int64. None if
                there is no contrast in the whole batch, as it must be where the explainer takes none.
        """

    def close(self) -> None:
        """Release the model; `run` must not be called afterwards."""
