"""One node on the way back from the logits to a layer, and what the rule for its operator may ask of it."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from errors import NotCompilable
from explain.graph.nodes import Facts, Shape, Writer, title


class Step:
    """One node on the way back, and what its rule may ask.

    Attributes:
        node: the node.
        gradients: the name of ∂L/∂y by the place of an output y; of an output that nothing reads there is none.
        facts: shapes and constants of the values around it.
        write: writes the nodes of the gradient.
    """

    def __init__(
        self, node: onnx.NodeProto, gradients: Mapping[int, str], facts: Facts, write: Writer, varying: set[str]
    ) -> None:
        self.node, self.gradients, self.write = node, gradients, write
        self.facts, self._varying = facts, varying

    @property
    def gradient(self) -> str:
        """The name of ∂L/∂y, y being the node's first output.

        Raises:
            NotCompilable: a gradient reaches another output.
        """
        self.require(set(self.gradients) == {0}, "has several outputs that count")
        return self.gradients[0]

    @property
    def x(self) -> str:
        """The node's first input."""
        return str(self.node.input[0])

    @property
    def y(self) -> str:
        """The node's output."""
        return str(self.node.output[0])

    def varies(self, place: int) -> bool:
        """Return whether an input depends on the layer."""
        return len(self.node.input) > place and self.node.input[place] in self._varying

    def require_constant(self, *places: int) -> None:
        """Raise if one of these inputs depends on the layer.

        Raises:
            NotCompilable: one does; the message names the node.
        """
        varying = [str(place) for place in places if self.varies(place)]
        self.require(not varying, f"has an input (number {', '.join(varying)}) that depends on the picture")

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

    def padded(self, gradient: str, part: Shape, starts: Mapping[int, int]) -> str:
        """Put zeros around the gradient of a part of the input.

        Args:
            gradient: has the shape of the part.
            part: that shape.
            starts: where the part begins in the input, by axis.
        """
        whole = self.shape(self.x)
        before, after = [0] * len(whole), [0] * len(whole)
        for axis, start in starts.items():
            before[axis], after[axis] = start, whole[axis] - start - part[axis]
        return self.write("Pad", gradient, self.write.constant([*before, *after], np.int64))

    def collected(self, gradient: str, place: int, *, matrices: bool = False) -> str:
        """Sum a gradient over the axes along which an input was broadcast to the output.

        Args:
            gradient: has the output's axes.
            place: of the input.
            matrices: whether the last two axes are those of matrices that were multiplied, and the gradient's are the
                input's own.
        """
        out, own = self.shape(self.y), self.shape(self.node.input[place])
        out = (*out[:-2], *own[-2:]) if matrices else out
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
