"""Where a graph can be cut: the values that everything from the picture to the logits passes through."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import onnx

from explain.graph.nodes import WITHOUT_GRADIENT, read_values


class Paths(NamedTuple):
    """The nodes between the picture and the logits.

    Attributes:
        nodes: those on a path from the picture to the logits, in the graph's order.
        cuts: the values that every such path passes through, in the same order; the picture and the logits are not
            among them.
    """

    nodes: Sequence[onnx.NodeProto]
    cuts: Sequence[str]

    def nodes_after(self, cut: str) -> Sequence[onnx.NodeProto]:
        """Return the nodes behind the one that one of the cuts comes from."""
        return self.nodes[1 + next(place for place, node in enumerate(self.nodes) if cut in node.output) :]


def paths(graph: onnx.GraphProto, image: str, logits: str) -> Paths:
    """Return the paths from one value to another."""
    reached = {image}
    forward = []
    for node in graph.node:
        if node.op_type not in WITHOUT_GRADIENT and reached.intersection(read_values(node)):
            forward.append(node)
            reached.update(filter(None, node.output))
    needed, nodes = {logits}, []
    for node in reversed(forward):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(read_values(node))
    nodes.reverse()
    return Paths(nodes, list(_cuts(nodes, image, logits, reached & needed)))


def _cuts(nodes: Sequence[onnx.NodeProto], image: str, logits: str, on_paths: set[str]) -> Iterator[str]:
    """Yield each value that is the only one still to be read once it is computed."""
    last_read = {name: place for place, node in enumerate(nodes) for name in read_values(node)}
    alive = {image}
    for place, node in enumerate(nodes):
        alive = {name for name in alive if last_read.get(name, -1) > place}
        alive.update(on_paths.intersection(node.output))
        if len(alive) == 1 and logits not in alive and alive.intersection(node.output):
            yield from alive
