"""From a map, which covers the network's input, to the heatmap of the picture as it was sent."""

import numpy as np

from explain.base import Float32Array
from explain.overlay import heatmap
from preprocessing.geometry import place
from preprocessing.spec import ImageInput


def picture_heatmap(cam: Float32Array, size: tuple[int, int], spec: ImageInput) -> Float32Array:
    """Put a map back on the picture that it belongs to.

    Args:
        cam: shape (h, w), float32, not negative; it covers the network's input.
        size: height and width of the picture, in pixels.
        spec: the card's input section, which says what of the picture the network sees.

    Returns:
        Shape `size`, float32 in [0, 1], where 1 is the map's maximum over the whole input, padding included; 0 where
        the network sees nothing of the picture.

    Raises:
        InvalidImage: as `preprocessing.geometry.place`.
    """
    placement = place(size, spec)
    if placement.is_whole:
        return heatmap(cam, size)
    seen, heat = placement.seen(), np.zeros(size, np.float32)
    height, width = (part.stop - part.start for part in seen)
    part = heatmap(cam, spec.size)[placement.inside]
    heat[seen] = heatmap(part, (height, width)) * part.max()
    return heat
