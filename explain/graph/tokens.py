"""The feature maps of vision transformers: tokens (N, T, C), of which h·w are the cells of a map, row by row.

Dosovitskiy et al. 2020, arXiv:2010.11929: a convolution cuts the picture into patches, whose cells become tokens behind
a class token; every block adds to the tokens what attention and a perceptron make of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx

from explain.graph.nodes import Facts, Shape, attribute

_KEEPS_TOKENS = ("Add", "Div", "Dropout", "Identity", "LayerNormalization", "Mul", "Sub")


class Grid(NamedTuple):
    """Where a map lies among tokens.

    Attributes:
        size: height and width of the map.
        before: how many tokens, such as the class token, come before those of the map.
    """

    size: tuple[int, int]
    before: int


def token_grids(
    cuts: Sequence[str], maps: Mapping[str, int], producers: Mapping[str, onnx.NodeProto], facts: Facts
) -> Mapping[str, Grid]:
    """Return the map that each value of tokens holds.

    Args:
        cuts: the values that everything passes through, in the graph's order.
        maps: those among them that are maps (N, C, h, w) or (N, h, w, C), and which axis holds their channels.
        producers: the node that each value comes from.
        facts: has the shapes of the cuts.
    """
    grids: dict[str, Grid] = {}
    rows: dict[str, Grid] = {}
    for name in cuts:
        node, shape = producers[name], facts.shapes[name]
        source = node.input[0]
        if node.op_type in ("Reshape", "Flatten") and source in maps:
            items, *sides = facts.shapes[source]
            channels = sides.pop(maps[source] - 1)
            grid, cells = Grid((sides[0], sides[1]), 0), sides[0] * sides[1]
            if maps[source] == 3 and shape == (items, cells, channels):
                grids[name] = grid
            elif maps[source] == 1 and shape == (items, channels, cells):
                rows[name] = grid
        elif node.op_type == "Transpose" and source in rows and list(attribute(node, "perm", [2, 1, 0])) == [0, 2, 1]:
            grids[name] = rows[source]
        elif (kept := _kept(node, shape, grids, facts)) is not None:
            grids[name] = kept
    return grids


def _kept(node: onnx.NodeProto, shape: Shape, grids: Mapping[str, Grid], facts: Facts) -> Grid | None:
    """Return the map in what a node makes of tokens; None where it is lost."""
    sources = [name for name in node.input if name in grids]
    if len(set(sources)) != 1 or len(shape) != 3:
        return None
    grid, own = grids[sources[0]], facts.shapes[sources[0]]
    if node.op_type == "Concat" and attribute(node, "axis") in (1, -2) and node.input[-1] == sources[-1]:
        return Grid(grid.size, grid.before + shape[1] - own[1])
    return grid if node.op_type in _KEEPS_TOKENS and shape == own else None


def norms_beside(name: str, nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """Yield the layer norm of a value which a block attends to, while the value itself goes past the block."""
    readers = [node for node in nodes if name in node.input]
    if len(readers) > 1:
        yield from (node.output[0] for node in readers if node.op_type == "LayerNormalization")
