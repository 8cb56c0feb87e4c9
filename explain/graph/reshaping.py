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


def split(step: Step) -> Gradients:
    """Put the gradients of the parts together; a part that nothing reads has none."""
    axis = attribute(step.node, "axis", 0) % len(step.shape(step.x))
    parts: list[str] = []
    start = 0
    for place, name in enumerate(step.node.output):
        shape = step.shape(name)
        if place in step.gradients:
            parts.append(step.padded(step.gradients[place], shape, {axis: start}))
        start += shape[axis]
    return {0: parts[0] if len(parts) == 1 else step.write("Sum", *parts)}


def cut(step: Step) -> Gradients:
    """Put zeros where a slice leaves numbers out."""
    names = [*step.node.input[1:], "", "", ""][:4]
    starts, ends, axes, steps = (step.integers(name) if name else None for name in names)
    step.require(starts is not None and ends is not None, "cuts at places that are computed")
    step.require(not (names[2] and axes is None) and not (names[3] and steps is None), "cuts at computed places")
    step.require(not steps or set(steps) == {1}, "leaves numbers out in between")
    whole = step.shape(step.x)
    axes = [axis % len(whole) for axis in (axes if axes is not None else range(len(starts or [])))]
    begins = {axis: _place(start, whole[axis]) for axis, start in zip(axes, starts or [], strict=True)}
    return {0: step.padded(step.gradient, step.shape(step.y), begins)}


def _place(start: int, length: int) -> int:
    """Return a place on an axis, counted from its front; numbers below zero count from its end."""
    return min(max(start + length if start < 0 else start, 0), length)


def gather(step: Step) -> Gradients:
    """Put zeros beside the one entry that is read of an axis, such as the class token."""
    indices = step.facts.constant(step.node.input[1])
    step.require(indices is not None and indices.shape in ((), (1,)), "reads several entries, or computed ones")
    whole = step.shape(step.x)
    axis = attribute(step.node, "axis", 0) % len(whole)
    index = int(indices.item()) if indices is not None else 0
    is_kept = indices is not None and indices.ndim == 1
    entry = step.gradient
    if not is_kept:
        entry = step.write("Unsqueeze", entry, step.write.constant([axis], np.int64))
    part = tuple(1 if place == axis else length for place, length in enumerate(whole))
    return {0: step.padded(entry, part, {axis: _place(index, whole[axis])})}


def same(step: Step) -> Gradients:
    """Pass the gradient on as it is."""
    return {0: step.gradient}


def cast(step: Step) -> Gradients:
    """Pass the gradient of a cast from float32 to float32 on; newer exporters leave many of them."""
    kinds = {step.facts.dtypes[name] for name in (step.x, step.y)}
    step.require(kinds == {np.dtype(np.float32)}, "rounds numbers")
    return {0: step.gradient}


def dropout(step: Step) -> Gradients:
    """Pass the gradient on as it is: at inference nothing is dropped."""
    training = step.node.input[2] if len(step.node.input) > 2 else ""
    drops = step.facts.constant(training) if training else np.zeros(1)
    step.require(drops is not None and not drops.any(), "drops numbers by chance")
    return {0: step.gradient}
