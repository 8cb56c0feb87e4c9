"""The rules of arithmetic, of linear layers and of normalisation."""

import numpy as np

from explain.graph.nodes import attribute
from explain.graph.steps import Gradients, Step


def add(step: Step) -> Gradients:
    """Pass the gradient of a sum to each summand."""
    places = [place for place in range(len(step.node.input)) if step.varies(place)]
    return {place: step.collected(step.gradient, place) for place in places}


def expand(step: Step) -> Gradients:
    """Sum the gradient over the axes along which the input is repeated."""
    return {0: step.collected(step.gradient, 0)}


def sub(step: Step) -> Gradients:
    """Pass the gradient of a difference to both sides."""
    gradients = dict(add(step))
    if 1 in gradients:
        gradients[1] = step.write("Neg", gradients[1])
    return gradients


def mul(step: Step) -> Gradients:
    """Return the gradients of a product."""
    factors = {0: step.node.input[1], 1: step.node.input[0]}
    products = {
        place: step.write("Mul", step.gradient, other) for place, other in factors.items() if step.varies(place)
    }
    return {place: step.collected(product, place) for place, product in products.items()}


def div(step: Step) -> Gradients:
    """Return the gradients of a quotient."""
    quotient = step.write("Div", step.gradient, step.node.input[1])
    gradients = {0: step.collected(quotient, 0)} if step.varies(0) else {}
    if step.varies(1):
        gradients[1] = step.collected(step.write("Neg", step.write("Mul", quotient, step.y)), 1)
    return gradients


def power(step: Step) -> Gradients:
    """Return the gradient of a constant power."""
    exponent = step.facts.constant(step.node.input[1])
    step.require(exponent is not None and exponent.size == 1, "raises to a power that is computed")
    step.require(exponent is not None and exponent.ndim <= len(step.shape(step.x)), "changes the number of its axes")
    number = float(exponent.item()) if exponent is not None else 0.0
    lower = step.write("Pow", step.x, step.write.number(number - 1))
    return {0: step.write("Mul", step.gradient, step.write("Mul", lower, step.write.number(number)))}


def matmul(step: Step) -> Gradients:
    """Return the gradients of a product of matrices Y = AB, or of stacks of them: ∂L/∂Y · Bᵀ and Aᵀ · ∂L/∂Y."""
    left, right = step.node.input
    step.require(min(len(step.shape(left)), len(step.shape(right))) >= 2, "multiplies by a vector")
    gradients = {}
    if step.varies(0):
        gradients[0] = step.write("MatMul", step.gradient, _transposed(step, right))
    if step.varies(1):
        gradients[1] = step.write("MatMul", _transposed(step, left), step.gradient)
    return {place: step.collected(gradient, place, matrices=True) for place, gradient in gradients.items()}


def _transposed(step: Step, matrix: str) -> str:
    """Write the transposed of a matrix, or of each in a stack of them."""
    *stacked, rows, columns = range(len(step.shape(matrix)))
    return step.write("Transpose", matrix, perm=[*stacked, columns, rows])


def softmax(step: Step) -> Gradients:
    """Return y · (ĝ - Σ ĝ · y), with ĝ = ∂L/∂y."""
    axis = attribute(step.node, "axis", -1) % len(step.shape(step.x))
    weighted = step.write("Mul", step.gradient, step.y)
    return {0: step.write("Sub", weighted, step.write("Mul", step.y, step.write.sum(weighted, [axis])))}


def gemm(step: Step) -> Gradients:
    """Return the gradient of a linear layer."""
    fits = step.varies(0) and not step.varies(1) and not step.varies(2) and not attribute(step.node, "transA", 0)
    step.require(fits, "multiplies by a matrix that depends on the picture")
    transposed = 0 if attribute(step.node, "transB", 0) else 1
    alpha = float(attribute(step.node, "alpha", 1.0))
    return {0: step.write("Gemm", step.gradient, step.node.input[1], transB=transposed, alpha=alpha)}


def batch_norm(step: Step) -> Gradients:
    """Return the gradient of a batch norm, which at inference scales each channel."""
    _, scale, _, _, variance = step.node.input
    step.require_constant(1, 2, 3, 4)
    step.require(not attribute(step.node, "training_mode", 0), "normalises by the batch itself")
    epsilon = step.write.number(attribute(step.node, "epsilon", 1e-5))
    factor = step.write("Div", scale, step.write("Sqrt", step.write("Add", variance, epsilon)))
    by_channel = step.write.constant([-1] + [1] * (len(step.shape(step.x)) - 2), np.int64)
    return {0: step.write("Mul", step.gradient, step.write("Reshape", factor, by_channel))}


def layer_norm(step: Step) -> Gradients:
    """Return (ĝ - mean(ĝ) - x̂ · mean(ĝ · x̂)) / σ, with ĝ = ∂L/∂y · scale (Ba et al. 2016, arXiv:1607.06450)."""
    rank = len(step.shape(step.x))
    axes = list(range(attribute(step.node, "axis", -1) % rank, rank))
    count = step.write.number(int(np.prod([step.shape(step.x)[axis] for axis in axes])))
    step.require_constant(1, 2)
    write = step.write

    def mean(value: str) -> str:
        return write("Div", write.sum(value, axes), count)

    centred = write("Sub", step.x, mean(step.x))
    variance = write(
        "Add", mean(write("Mul", centred, centred)), step.write.number(attribute(step.node, "epsilon", 1e-5))
    )
    deviation = write("Sqrt", variance)
    normed = write("Div", centred, deviation)
    scaled = write("Mul", step.gradient, step.node.input[1])
    along = write("Mul", normed, mean(write("Mul", scaled, normed)))
    return {0: write("Div", write("Sub", write("Sub", scaled, mean(scaled)), along), deviation)}
