"""The pipelines of predictions: an encoded picture to its logits, the rows of a request to their outputs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from backends.base import WHOLE_NETWORK, AnsweredBy, Backend, Logits, Outputs, check_outputs
from errors import InvalidInput
from models.card import Card, ImageCard
from preprocessing.decode import check_size
from preprocessing.prepare import Prepare, is_quick, is_slow, prepare, sharpness_s
from preprocessing.spec import Float32Tensor, UInt8Image
from preprocessing.transform import Transformed, transform
from runners.admission import Work
from serving.row_pipeline import RowPipeline

HEAVY_BYTES = 32 * 1024
"""Decoding an encoded picture of this size takes a millisecond, more than handing it to another thread."""
PIXEL_BYTES_A_BYTE = 8
"""An encoded picture has about so many times fewer bytes than its pixels."""
LARGEST_MAGNITUDE = 1e3
"""The limit for values of a tensor that a client transformed itself; an 8-bit picture's stay under about 20."""


class DecodedImage(NamedTuple):
    """A picture that is decoded already: RGB, shape (H, W, 3), uint8."""

    pixels: UInt8Image


class TransformedImage(NamedTuple):
    """A picture that is transformed already: shape `card.input.shape`, float32, as `transform` returns it."""

    tensor: Float32Tensor


ImagePayload = bytes | DecodedImage | TransformedImage
"""What a pipeline of pictures takes; bytes are an encoded file."""


class ImageOutputs(NamedTuple):
    """What the network gave for one picture.

    Attributes:
        logits: shape (K,), float32.
        sharpness: the picture's variance of the Laplacian; None where the card does not ask for it.
        answered_by: the part of the network that answered; None for a model without an early exit.
    """

    logits: Logits
    sharpness: float | None
    answered_by: AnsweredBy | None = None


class ImagePipeline:
    """Turns a picture into logits: decode, transform, infer.

    Args:
        card: the model's card.
        backend: runs the network.
        prepare_slow: decodes and transforms pictures that may take long; None where all are prepared alike.
    """

    def __init__(self, card: ImageCard, backend: Backend, prepare_slow: Prepare | None = None) -> None:
        self._card, self._backend, self._prepare_slow = card, backend, prepare_slow

    def preprocess(self, payload: ImagePayload) -> Transformed:
        """Decode and transform one picture.

        Raises:
            InvalidInput: the picture, or what a client made of it, cannot be used.
            TooLarge: it has more pixels than the card allows.
        """
        if isinstance(payload, TransformedImage):
            return Transformed(self._checked_tensor(payload.tensor), None)
        if isinstance(payload, DecodedImage):
            height, width, _ = payload.pixels.shape
            check_size(width, height, self._card.limits)
            return transform(payload.pixels, self._card.input)
        return self._prepared(prepare, payload)

    def is_slow(self, payload: ImagePayload) -> bool:
        """Return whether an encoded picture may take long to decode."""
        if self._prepare_slow is None or not isinstance(payload, bytes):
            return False
        return is_slow(payload, self._card.limits, sharpness_s(self._card.input))

    def is_quick(self, payload: ImagePayload | object) -> bool:
        """Return whether a payload is a picture, or a tensor, that takes the event loop no longer than others."""
        if isinstance(payload, bytes):
            limits, pixel_s = self._card.limits, sharpness_s(self._card.input)
            return len(payload) <= HEAVY_BYTES and is_quick(payload, limits, pixel_s)
        return isinstance(payload, TransformedImage)

    def preprocess_slow(self, payload: ImagePayload) -> Transformed:
        """Decode and transform one picture that may take long; errors as of `preprocess`, or that it took too long."""
        return self._prepared(self._prepare_slow or prepare, cast(bytes, payload))

    def infer(self, batch: Sequence[Transformed]) -> list[ImageOutputs]:
        """Run the network on transformed pictures; one result for each."""
        return self.infer_tensors(np.stack([item.tensor for item in batch]), [item.sharpness for item in batch])

    def infer_tensors(self, tensors: Float32Tensor, sharpness: Sequence[float | None]) -> list[ImageOutputs]:
        """Run the network on the tensors of pictures, shape (N, *card.input.shape), each with its sharpness."""
        logits = self.run(tensors).logits
        return [ImageOutputs(row, own) for row, own in zip(logits, sharpness, strict=True)]

    def run(self, tensors: Float32Tensor) -> Outputs:
        """Run the network on tensors of shape (N, *card.input.shape), float32, and check what it gives."""
        outputs = self._backend.run(tensors)
        check_outputs(outputs.logits, len(tensors), len(self._card.labels))
        return outputs

    def count_inferences(self, item: Transformed) -> int:
        """Return 1: an item is one picture."""
        return 1

    def pixels(self, item: Transformed) -> int:
        """Return how many pixels the picture had as it came; 0 for a tensor that a client transformed itself."""
        return item.area

    def is_evaluation(self, payload: ImagePayload) -> bool:
        """Return False: each picture is a client's."""
        return False

    def work(self, payload: ImagePayload) -> Work:
        """Return one item, with the bytes that have to be decoded as its size; of pixels as many as of a JPEG."""
        if isinstance(payload, bytes):
            return Work(1, len(payload))
        return Work(1, payload.pixels.nbytes // PIXEL_BYTES_A_BYTE if isinstance(payload, DecodedImage) else 0)

    def is_heavy(self, payload: ImagePayload) -> bool:
        """Return whether a picture is large enough to be decoded by another thread."""
        return isinstance(payload, DecodedImage) or (isinstance(payload, bytes) and len(payload) > HEAVY_BYTES)

    def _prepared(self, prepare_picture: Prepare, data: bytes) -> Transformed:
        picture = prepare_picture(data, self._card.limits, self._card.input)
        return Transformed(picture.tensor, picture.sharpness, picture.area)

    def _checked_tensor(self, tensor: Float32Tensor) -> Float32Tensor:
        """Return a tensor that a client transformed itself, if the network can be given it."""
        shape = self._card.input.shape
        if tensor.shape != shape:
            raise InvalidInput(f"The tensor has shape {list(tensor.shape)}; {self._card.name} takes {list(shape)}.")
        if not (np.abs(tensor) <= LARGEST_MAGNITUDE).all():  # the comparison is false for NaN
            raise InvalidInput(
                f"The tensor has values that are not finite, or beyond ±{LARGEST_MAGNITUDE:g}: transform the picture "
                "as the card says, or send it as it is."
            )
        return tensor


class EarlyExitPipeline(ImagePipeline):
    """The pipeline of a network with an early exit: its results say which part of the network answered.

    Args:
        card: the model's card.
        backend: says of every item which part answered.
        count: is given the part that answered each picture, once `begin_counting` has been called.
        prepare_slow: as of `ImagePipeline`.
    """

    def __init__(
        self,
        card: ImageCard,
        backend: Backend,
        count: Callable[[AnsweredBy], None],
        prepare_slow: Prepare | None = None,
    ) -> None:
        super().__init__(card, backend, prepare_slow)
        self._count, self._counts = count, False

    def begin_counting(self) -> None:
        """Count from now on; what was inferred before, such as the self-check, is no client's."""
        self._counts = True

    def infer_tensors(self, tensors: Float32Tensor, sharpness: Sequence[float | None]) -> list[ImageOutputs]:
        """Run the network on the tensors of pictures; each result has the part that answered."""
        logits, answered_by = self.run(tensors)
        parts = answered_by or [WHOLE_NETWORK] * len(tensors)
        if self._counts:
            for part in parts:
                self._count(part)
        return [ImageOutputs(row, own, part) for row, own, part in zip(logits, sharpness, parts, strict=True)]


def make_pipeline(card: Card, backend: Backend, prepare_slow: Prepare | None = None) -> "ImagePipeline | RowPipeline":
    """Return the pipeline for a card's kind of input; `prepare_slow` prepares pictures that may take long."""
    return ImagePipeline(card, backend, prepare_slow) if isinstance(card, ImageCard) else RowPipeline(card, backend)
