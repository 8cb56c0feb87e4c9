"""The pipeline of the pictures of a turn of the event loop: decoded one by one, normalised and inferred together."""

from collections.abc import Sequence

import numpy as np

from models.card import ImageCard
from preprocessing.decode import decode
from preprocessing.transform import Fitted, Transformed, fit, normalise, normalise_all
from serving.pipeline import ImageOutputs, ImagePayload, ImagePipeline

Item = Fitted | Transformed


class GatheredPictures:
    """The pipeline of pictures that are quick to decode; the results are those of `ImagePipeline`, bit for bit.

    Args:
        card: the model's card.
        images: what all pictures go through in the end.
    """

    def __init__(self, card: ImageCard, images: ImagePipeline) -> None:
        self._card, self._images = card, images
        self.is_slow, self.is_heavy, self.work = images.is_slow, images.is_heavy, images.work
        self.is_evaluation, self.preprocess_slow = images.is_evaluation, images.preprocess_slow

    def preprocess(self, payload: ImagePayload) -> Item:
        """Decode one picture and give it its size; errors as of `ImagePipeline.preprocess`."""
        if not isinstance(payload, bytes):
            return self._images.preprocess(payload)
        spec = self._card.input
        return fit(decode(payload, self._card.limits, upright=spec.orientation == "apply"), spec)

    def infer(self, batch: Sequence[Item]) -> list[ImageOutputs]:
        """Normalise pictures, all at once, and run the network on them; one result for each."""
        spec, sharpness = self._card.input, [item.sharpness for item in batch]
        pixels = [item.pixels for item in batch if isinstance(item, Fitted)]
        if len(pixels) == len(batch):
            return self._images.infer_tensors(normalise_all(pixels, spec), sharpness)
        tensors = [normalise(item.pixels, spec) if isinstance(item, Fitted) else item.tensor for item in batch]
        return self._images.infer_tensors(np.stack(tensors), sharpness)

    def count_inferences(self, item: Item) -> int:
        """Return 1: an item is one picture."""
        return 1

    def pixels(self, item: Item) -> int:
        """Return how many pixels the picture had as it came; 0 for a tensor that a client transformed itself."""
        return item.area
