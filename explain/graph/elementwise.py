"""The derivatives of functions that map each number by itself: y = f(x), as nodes that compute ∂L/∂x from ∂L/∂y."""

from collections.abc import Callable
from math import pi, sqrt
from typing import Any

import numpy as np
import onnx

from errors import NotCompilable
from explain.graph.nodes import Facts, Writer, attribute, title


class Elementwise:
    """One node of such a function, and the arithmetic in which its derivative is written.

    Attributes:
        node: with the input x and the output y.
        x: the name of the input.
        y: the name of the output.
    """

    def __init__(self, node: onnx.NodeProto, facts: Facts, write: Writer) -> None:
        self.node, self._facts, self._write = node, facts, write
        self.x, self.y = str(node.input[0]), str(node.output[0])

    def number(self, value: float) -> str:
        """Return a constant."""
        return self._write.number(value)

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute of the node."""
        return attribute(self.node, name, default)

    def do(self, operator: str, *operands: str | float) -> str:
        """Write an operator whose operands are values or numbers."""
        return self._write(operator, *(item if isinstance(item, str) else self.number(item) for item in operands))

    def chosen(self, condition: str, value: str | float = 1.0, other: str | float = 0.0) -> str:
        """Return a value where a condition holds, and another one elsewhere."""
        return self.do("Where", condition, value, other)

    def between(self, low: float, high: float) -> str:
        """Return where x lies between two numbers, neither of them included."""
        return self._write("And", self.do("Greater", self.x, low), self.do("Less", self.x, high))

    def bound(self, place: int, default: float) -> float:
        """Return a bound of a `Clip`, which must be a constant.

        Raises:
            NotCompilable: it is computed.
        """
        name = self.node.input[place] if len(self.node.input) > place else ""
        if not name:
            return default
        if (value := self._facts.constant(name)) is None:
            raise NotCompilable(f"the bounds of {title(self.node)} are computed")
        return float(value)


def _relu(f: Elementwise) -> str:
    return f.chosen(f.do("Greater", f.x, 0.0))


def _leaky_relu(f: Elementwise) -> str:
    return f.chosen(f.do("Greater", f.x, 0.0), 1.0, f.attribute("alpha", 0.01))


def _elu(f: Elementwise) -> str:
    return f.chosen(f.do("Greater", f.x, 0.0), 1.0, f.do("Add", f.y, f.attribute("alpha", 1.0)))


def _clip(f: Elementwise) -> str:
    """Let through what lies between the bounds, as PyTorch does for ReLU6 (`hardtanh`)."""
    return f.chosen(f.between(f.bound(1, -np.inf), f.bound(2, np.inf)))


def _sigmoid(f: Elementwise) -> str:
    return f.do("Mul", f.y, f.do("Sub", 1.0, f.y))


def _tanh(f: Elementwise) -> str:
    return f.do("Sub", 1.0, f.do("Mul", f.y, f.y))


def _hard_sigmoid(f: Elementwise) -> str:
    is_inside = f.do("And", f.do("Greater", f.y, 0.0), f.do("Less", f.y, 1.0))
    return f.chosen(is_inside, f.attribute("alpha", 0.2))


def _hard_swish(f: Elementwise) -> str:
    slope = f.do("Div", f.do("Add", f.do("Mul", f.x, 2.0), 3.0), 6.0)
    return f.chosen(f.do("Less", f.x, 3.0), f.chosen(f.do("Greater", f.x, -3.0), slope), 1.0)


def _softplus(f: Elementwise) -> str:
    return f.do("Sigmoid", f.x)


def _erf(f: Elementwise) -> str:
    return f.do("Mul", 2 / sqrt(pi), f.do("Exp", f.do("Neg", f.do("Mul", f.x, f.x))))


def _gelu(f: Elementwise) -> str:
    """Return Φ(x) + x · φ(x) (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    Raises:
        NotCompilable: the node approximates Φ by a hyperbolic tangent.
    """
    if f.attribute("approximate", b"none") != b"none":
        raise NotCompilable(f"{title(f.node)} approximates by tanh")
    cdf = f.do("Mul", 0.5, f.do("Add", 1.0, f.do("Erf", f.do("Div", f.x, sqrt(2)))))
    density = f.do("Mul", 1 / sqrt(2 * pi), f.do("Exp", f.do("Mul", -0.5, f.do("Mul", f.x, f.x))))
    return f.do("Add", cdf, f.do("Mul", f.x, density))


def _abs(f: Elementwise) -> str:
    return f.do("Sign", f.x)


def _sqrt(f: Elementwise) -> str:
    return f.do("Div", 0.5, f.y)


def _exp(f: Elementwise) -> str:
    return f.y


def _neg(f: Elementwise) -> str:
    return f.number(-1.0)


DERIVATIVES: dict[str, Callable[[Elementwise], str]] = {
    "Abs": _abs,
    "Clip": _clip,
    "Elu": _elu,
    "Erf": _erf,
    "Exp": _exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Neg": _neg,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sqrt": _sqrt,
    "Tanh": _tanh,
}
"""Operator → its derivative f'(x), written with x and y = f(x)."""
