"""One node on the way back from the logits to a layer, and what the rule for its operator may ask of it."""

from collections.abc import Callable, Mapping

import onnx

from errors import NotCompilable
from explain.graph.nodes import Facts, Shape, Writer, title


class Step:
    """One node on the way back, and what its rule may ask.

    Attributes:
        node: the node.
        gradient: the name of ∂L/∂y, y being the node's output.
        facts: shapes and constants of the values around it.
        write: writes the nodes of the gradient.
    """

    def __init__(self, node: onnx.NodeProto, gradient: str, facts: Facts, write: Writer, varying: set[str]) -> None:
        self.node, self.gradient, self.write = node, gradient, write
        self.facts, self._varying = facts, varying

    @property
    def x(self) -> str:
        """The node's first input."""
        return self.node.input[0]

    @property
    def y(self) -> str:
        """The node's output."""
        return self.node.output[0]

    def varies(self, place: int) -> bool:
        """Return whether an input depends on the layer."""
        return len(self.node.input) > place and self.node.input[place] in self._varying

    def shape(self, name: str) -> Shape:
        """Return the shape that a value had for the batch of examples."""
        return self.facts.shapes[name]

    def integers(self, name: str) -> list[int] | None:
        """Return the value of a constant list, such as axes; None where it is computed."""
        value = self.facts.constant(name)
        return None if value is None else [int(number) for number in value.reshape(-1)]

    def like_input(self, gradient: str, place: int = 0) -> str:
        """Give a gradient the shape of an input that has as many numbers."""
        return self.write("Reshape", gradient, self.write("Shape", self.node.input[place]))

    def spread(self, gradient: str) -> str:
        """Repeat a gradient, whose axes are those of the input or 1 long, to the shape of the input."""
        return self.write("Expand", gradient, self.write("Shape", self.x))

    def collected(self, gradient: str, place: int) -> str:
        """Sum a gradient over the axes along which an input was broadcast to the output."""
        out, own = self.shape(self.y), self.shape(self.node.input[place])
        padded = (1,) * (len(out) - len(own)) + own
        axes = [axis for axis, (length, own_length) in enumerate(zip(out, padded, strict=True)) if length != own_length]
        summed = self.write.sum(gradient, axes) if axes else gradient
        return self.like_input(summed, place) if len(out) != len(own) else summed

    def require(self, holds: bool, what: str) -> None:
        """Raise unless a condition of the rule holds.

        Raises:
            NotCompilable: it does not; the message names the node.
        """
        if not holds:
            raise NotCompilable(f"{title(self.node)} {what}, for which Vitrine has no exact gradient")


Gradients = Mapping[int, str]
"""Place of an input → the name of the gradient that reaches it."""
Rule = Callable[[Step], Gradients]
