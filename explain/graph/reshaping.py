"""The rules of what moves numbers and changes none."""

import numpy as np

from explain.graph.nodes import attribute
from explain.graph.steps import Gradients, Step


def reshaped(step: Step) -> Gradients:
    """Give the gradient the shape of the input."""
    return {0: step.like_input(step.gradient)}


def transpose(step: Step) -> Gradients:
    """Transpose the gradient the other way round."""
    rank = len(step.shape(step.x))
    order = attribute(step.node, "perm", list(range(rank))[::-1])
    return {0: step.write("Transpose", step.gradient, perm=[list(order).index(axis) for axis in range(rank)])}


def concat(step: Step) -> Gradients:
    """Cut the gradient into the parts of the inputs."""
    axis = attribute(step.node, "axis")
    gradients: dict[int, str] = {}
    start = 0
    for place, name in enumerate(step.node.input):
        end = start + step.shape(name)[axis]
        if step.varies(place):
            ends = [step.write.constant([number], np.int64) for number in (start, end, axis)]
            gradients[place] = step.write("Slice", step.gradient, *ends)
        start = end
    return gradients


def same(step: Step) -> Gradients:
    """Pass the gradient on as it is."""
    return {0: step.gradient}
