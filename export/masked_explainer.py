"""RISE for the command line: the masks, scores and maps are those of a server, without its queue."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from backends.base import Backend
from explain.base import NO_CONTRAST, PREDICTED, ExplainerOutputs, Float32Array, Int64Array
from explain.rise import DEFAULT_SAMPLES, RISE, RiseMap, draw_masks, map_size, rise_maps
from models.card import ImageCard
from preprocessing.spec import Float32Tensor
from serving.attributions import explained_outputs
from serving.masked import masked_tensors
from serving.rise import chunks


class MaskedExplainer:
    """Explains pictures of any model by RISE, one after the other.

    Args:
        card: the model's card.
        backend: predicts the masked pictures.
        samples: how many masks are drawn.
    """

    runtime: Literal["onnx"] = "onnx"
    device = "cpu"
    runs_in_parallel = True
    takes_contrasts = True

    def __init__(self, card: ImageCard, backend: Backend, samples: int = DEFAULT_SAMPLES) -> None:
        self._card, self._backend, self._samples = card, backend, samples

    def explain(self, tensor: Float32Tensor, classes: Sequence[int], contrast: int | None = None) -> list[RiseMap]:
        """Return the map of each class for one transformed picture of shape `card.input.shape`, float32."""
        masks, card = draw_masks(self._samples), self._card
        scores = [
            explained_outputs(
                self._backend.run(masked_tensors(chunk, card.input.layout).tensors).logits, card, classes, contrast
            )
            for chunk in chunks(tensor, masks, self.device)
        ]
        return rise_maps(np.concatenate(scores), masks, map_size(card.input.size))

    def run(
        self, batch: Float32Array, targets: Int64Array, methods: frozenset[str], contrasts: Int64Array | None = None
    ) -> ExplainerOutputs:
        """Explain one batch, as `explain.base.Explainer.run` describes; the one method is `RISE`."""
        logits = np.concatenate([self._backend.run(tensor[None]).logits for tensor in batch])
        classes = np.where(targets == PREDICTED, logits.argmax(axis=1), targets)
        contrasts = np.full_like(targets, NO_CONTRAST) if contrasts is None else contrasts
        maps = [
            self.explain(tensor, [int(target)], None if contrast == NO_CONTRAST else int(contrast))[0].values
            for tensor, target, contrast in zip(batch, classes, contrasts, strict=True)
        ]
        return ExplainerOutputs(logits, {RISE: np.stack(maps)})

    def close(self) -> None:
        """Release nothing: the backend is the caller's."""
