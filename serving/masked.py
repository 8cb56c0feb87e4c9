"""Pictures that are to be explained: what their drawing needs is kept, then they are predicted behind masks."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

from backends.base import Logits
from explain.rise import Masks, rendered
from models.card import ImageCard
from preprocessing.prepare import Prepare, prepare
from preprocessing.spec import Float32Tensor
from preprocessing.transform import Transformed
from runners.admission import Work
from serving.gradcam.drawing import PreparedPicture, is_slow_to_draw, prepare_to_draw
from serving.gradcam.wire import ExplanationRequest
from serving.pipeline import ImageOutputs, ImagePayload, ImagePipeline


class MaskedImage(NamedTuple):
    """A picture and the masks that hide parts of it: what is hidden is 0 in the transformed tensor.

    Attributes:
        tensor: the picture, transformed, shape `card.input.shape`, float32.
        masks: N of them.
    """

    tensor: Float32Tensor
    masks: Masks


class MaskedTensors(NamedTuple):
    """A picture behind each of its masks: shape (N, *card.input.shape), float32."""

    tensors: Float32Tensor


class MaskedOutputs(NamedTuple):
    """What the network gave for a picture behind each of its masks: shape (N, K), float32."""

    logits: Logits


class ShownOutputs(NamedTuple):
    """What the network gave for a picture that is to be explained, and the picture as it got it."""

    outputs: ImageOutputs
    picture: PreparedPicture


Payload = ImagePayload | ExplanationRequest | MaskedImage
Item = Transformed | PreparedPicture | MaskedTensors
Result = ImageOutputs | ShownOutputs | MaskedOutputs


class ExplainablePipeline:
    """A pipeline of pictures that takes a picture to be explained as well, and then the same picture behind masks.

    Args:
        card: the model's card.
        images: what all pictures go through in the end.
        prepare_slow: decodes and transforms pictures that may take long; None where all are prepared alike.
    """

    def __init__(self, card: ImageCard, images: ImagePipeline, prepare_slow: Prepare | None = None) -> None:
        self._card, self._images, self._prepare_slow = card, images, prepare_slow

    def preprocess(self, payload: Payload) -> Item:
        """Decode and transform one picture, or hide parts of it.

        Raises:
            InvalidInput: as `ImagePipeline.preprocess`.
            NoExplanation: the picture is too large to be drawn on.
        """
        if isinstance(payload, MaskedImage):
            return masked_tensors(payload, self._card.input.layout)
        if isinstance(payload, ExplanationRequest):
            return prepare_to_draw(prepare, self._card, payload)
        return self._images.preprocess(payload)

    def is_slow(self, payload: Payload) -> bool:
        """Return whether an encoded picture may take long to decode, or to draw on."""
        if isinstance(payload, ExplanationRequest):
            return self._prepare_slow is not None and is_slow_to_draw(self._card, payload)
        return not isinstance(payload, MaskedImage) and self._images.is_slow(payload)

    def preprocess_slow(self, payload: Payload) -> Item:
        """Decode and transform one picture that may take long; errors as of `preprocess`, or that it took too long."""
        if isinstance(payload, ExplanationRequest):
            return prepare_to_draw(self._prepare_slow or prepare, self._card, payload)
        return self.preprocess(payload) if isinstance(payload, MaskedImage) else self._images.preprocess_slow(payload)

    def infer(self, batch: Sequence[Item]) -> list[Result]:
        """Run the network on pictures, all at once, and on each masked one by itself; one result for each."""
        if all(type(item) is Transformed for item in batch):  # as it mostly is
            return [*self._images.infer(cast("Sequence[Transformed]", batch))]
        pictures = [Transformed(item.tensor, item.sharpness) for item in batch if not isinstance(item, MaskedTensors)]
        predicted = iter(self._images.infer(pictures) if pictures else ())
        results = list[Result]()
        for item in batch:
            if isinstance(item, MaskedTensors):
                results.append(MaskedOutputs(self._images.run(item.tensors).logits))
            else:
                outputs = next(predicted)
                results.append(ShownOutputs(outputs, item) if isinstance(item, PreparedPicture) else outputs)
        return results

    def count_inferences(self, item: Item) -> int:
        """Return 1, or the number of masks: so many pictures an item is."""
        return len(item.tensors) if isinstance(item, MaskedTensors) else 1

    def pixels(self, item: Item) -> int:
        """Return how many pixels the picture has as it came; 0 for one behind masks."""
        return 0 if isinstance(item, MaskedTensors) else item.area

    def is_evaluation(self, payload: Payload) -> bool:
        """Return whether this is a picture behind masks, which an explanation asks for."""
        return isinstance(payload, MaskedImage)

    def work(self, payload: Payload) -> Work:
        """Return one item with the bytes that have to be decoded; a masked picture is as many items as masks."""
        if isinstance(payload, MaskedImage):
            return Work(len(payload.masks.shifts))
        return Work(1, len(payload.data)) if isinstance(payload, ExplanationRequest) else self._images.work(payload)

    def is_heavy(self, payload: Payload) -> bool:
        """Return whether a picture is large enough to be decoded by another thread."""
        if isinstance(payload, ExplanationRequest | MaskedImage):
            return isinstance(payload, ExplanationRequest)
        return self._images.is_heavy(payload)


def masked_tensors(image: MaskedImage, layout: Literal["nchw", "nhwc"]) -> MaskedTensors:
    """Return a picture behind each of its masks.

    Args:
        image: the picture and its masks.
        layout: the order of the tensor's axes.
    """
    tensor, masks = image
    if layout == "nchw":
        return MaskedTensors(tensor * rendered(masks, (tensor.shape[1], tensor.shape[2]))[:, None])
    return MaskedTensors(tensor * rendered(masks, (tensor.shape[0], tensor.shape[1]))[..., None])
