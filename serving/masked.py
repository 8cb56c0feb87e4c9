"""One picture behind several masks, as it goes through a pipeline: what is hidden is 0 in the transformed tensor."""

from typing import Literal, NamedTuple

from backends.base import Logits
from explain.rise import Masks, rendered
from preprocessing.spec import Float32Tensor


class MaskedImage(NamedTuple):
    """A picture and the masks that hide parts of it.

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
