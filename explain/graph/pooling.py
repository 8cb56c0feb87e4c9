"""The rules of what sums over cells: pooling, reductions and convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from explain.graph.nodes import attribute
from explain.graph.steps import Gradients, Step


def mean_of_all(step: Step) -> Gradients:
    """Share the gradient of a mean over all cells out evenly."""
    count = int(np.prod(step.shape(step.x)[2:]))
    return {0: step.spread(step.write("Div", step.gradient, step.write.number(count)))}


def _reduced_axes(step: Step) -> Sequence[int]:
    """Return the axes that a node reduces, counted from the front."""
    rank = len(step.shape(step.x))
    axes = attribute(step.node, "axes")
    if axes is None and len(step.node.input) > 1 and step.node.input[1]:
        axes = step.integers(step.node.input[1])
        step.require(axes is not None, "reduces over axes that are computed")
    if not axes:
        return [] if attribute(step.node, "noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in axes]


def _kept(step: Step, value: str) -> str:
    """Give a value of a reducing node's output the axes again that the node dropped."""
    if attribute(step.node, "keepdims", 1):
        return value
    axes = step.write.constant(sorted(_reduced_axes(step)), np.int64)
    return step.write("Unsqueeze", value, axes)


def reduce_sum(step: Step) -> Gradients:
    """Repeat the gradient of a sum along the axes that it sums over."""
    return {0: step.spread(_kept(step, step.gradient))}


def reduce_mean(step: Step) -> Gradients:
    """Share the gradient of a mean out along the axes that it averages over."""
    count = int(np.prod([step.shape(step.x)[axis] for axis in _reduced_axes(step)]))
    return {0: step.spread(_kept(step, step.write("Div", step.gradient, step.write.number(count))))}


def _maximum(step: Step, kept_output: str, kept_gradient: str, axes: Sequence[int]) -> Gradients:
    """Give the gradient to the largest value; where several are equal, in equal shares."""
    is_largest = step.write("Cast", step.write("Equal", step.x, kept_output), to=TensorProto.FLOAT)
    share = step.write("Div", is_largest, step.write.sum(is_largest, axes))
    return {0: step.write("Mul", share, kept_gradient)}


def reduce_max(step: Step) -> Gradients:
    """Give the gradient of a maximum over axes to the largest value."""
    return _maximum(step, _kept(step, step.y), _kept(step, step.gradient), _reduced_axes(step))


def global_max_pool(step: Step) -> Gradients:
    """Give the gradient of a maximum over all cells to the largest value."""
    return _maximum(step, step.y, step.gradient, range(2, len(step.shape(step.x))))


def max_pool(step: Step) -> Gradients:
    """Give the gradient of max pooling to the largest value, where the pool is the whole map."""
    kernel, pads = attribute(step.node, "kernel_shape"), attribute(step.node, "pads", [0])
    is_whole = tuple(kernel) == step.shape(step.x)[2:] and set(step.shape(step.y)[2:]) == {1}
    step.require(is_whole and not any(pads), "pools parts of the map")
    return global_max_pool(step)


def convolution(step: Step) -> Gradients:
    """Return the gradient of a convolution with a constant kernel."""
    step.require_constant(1, 2)
    return {0: _transposed_convolution(step, step.node.input[1], step.shape(step.node.input[1])[2:])}


def average_pool(step: Step) -> Gradients:
    """Return the gradient of average pooling: that of a convolution of each channel with an even kernel."""
    kernel, pads = attribute(step.node, "kernel_shape"), attribute(step.node, "pads", [0])
    counts_all = attribute(step.node, "count_include_pad", 0) or not any(pads)
    step.require(bool(counts_all), "averages over fewer cells at its edge")
    channels = step.shape(step.x)[1]
    even = np.full((channels, 1, *kernel), 1 / np.prod(kernel))
    weight = step.write.constant(even, np.float32)
    return {0: _transposed_convolution(step, weight, kernel, group=channels)}


def _transposed_convolution(step: Step, weight: str, kernel: Sequence[int], group: int | None = None) -> str:
    """Write the gradient of a convolution with respect to its input, which is the transposed convolution."""
    rank = len(kernel)
    step.require(attribute(step.node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"), "pads by itself")
    strides, dilations = (list(attribute(step.node, key, [1] * rank)) for key in ("strides", "dilations"))
    pads = list(attribute(step.node, "pads", [0] * 2 * rank))
    outside = []
    for axis, (length, out) in enumerate(zip(step.shape(step.x)[2:], step.shape(step.y)[2:], strict=True)):
        covered = (out - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
        outside.append(length + pads[axis] + pads[axis + rank] - covered)
    step.require(min(outside) >= 0, "averages over fewer cells at its edge")  # with ceil_mode
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads, "output_padding": outside}
    groups = group or attribute(step.node, "group", 1)
    return step.write("ConvTranspose", step.gradient, weight, kernel_shape=list(kernel), group=groups, **attributes)
