"""The feature maps of a graph that a heatmap can be made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx

from errors import NotCompilable
from explain.graph.elementwise import DERIVATIVES
from explain.graph.nodes import PREFIX, Facts, attribute
from explain.graph.paths import Paths
from explain.graph.tokens import norms_beside, token_grids

_CHANNELS_FIRST = {"AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "MaxPool"}
_CHANNELS_FIRST |= {"GlobalMaxPool", "InstanceNormalization", "GroupNormalization"}
_KEEPS_LAYOUT = {*DERIVATIVES, "Add", "Div", "Dropout", "Identity", "LayerNormalization", "Mul", "Sub", "Sum"}
_KEEPS_LAYOUT |= {"Concat", "Max", "Min", "Pow"}


_POOLED: dict[tuple[int, ...], int] = {(2, 3): 1, (1, 2): 3}
"""The axes that are pooled over → the axis of the channels."""


_AXIS_BY_ORDER: dict[tuple[int, ...], int] = {(0, 1, 2, 3): 1, (0, 2, 3, 1): 3}
"""Where each axis lies in (N, C, h, w) → the axis of the channels. In any other order the map would lie on its side."""
_IN_ANOTHER_ORDER = -1


class Layer(NamedTuple):
    """A feature map.

    Attributes:
        name: of the value.
        size: its height and width.
        channels_last: whether its shape is (N, h, w, C) and not (N, C, h, w).
        tokens_before: of tokens (N, T, C), how many come before those of the map; None where it is no tokens.
    """

    name: str
    size: tuple[int, int]
    channels_last: bool
    tokens_before: int | None = None


def last_layers(route: Paths, facts: Facts) -> Sequence[Layer]:
    """Return where a heatmap is made by default, the best first.

    It is the last feature map that everything passes through. Where that is tokens, an earlier one is due if only
    the class token counts after it; and of a block's input the layer norm is, which the block attends to.

    Raises:
        NotCompilable: there is none.
    """
    layers = spatial_layers(route, facts)
    if not layers:
        raise NotCompilable("it has no feature map that everything passes through, so nothing could be drawn")
    first = next((place for place, layer in enumerate(layers) if layer.tokens_before is not None), len(layers))
    if first == len(layers) or layers[-1].tokens_before is None:
        attentions = sum(node.op_type == "Softmax" for node in route.nodes_after(layers[-1].name))
        if attentions > 1:
            name = layers[-1].name.removeprefix(PREFIX)
            raise NotCompilable(
                f"attention follows its last feature map, {name!r}, and no tokens after that are known to be the cells "
                "of a map"
            )
        return layers[-1:]
    return [layer for layer in reversed(layers[first:]) if layer.tokens_before is not None]


def spatial_layers(route: Paths, facts: Facts) -> Sequence[Layer]:
    """Return the feature maps that everything passes through, in the graph's order.

    They come from a convolution, and have more than one cell. Behind tokens stands their layer norm, past which they
    go.
    """
    maps = list(_maps(route, facts))
    producers = {output: node for node in route.nodes for output in node.output}
    grids = token_grids(route.cuts, {entry.name: 3 if entry.channels_last else 1 for entry in maps}, producers, facts)
    layers = []
    found = {entry.name: entry for entry in maps}
    for name in route.cuts:
        if name in found:
            layers.append(found[name])
        elif (grid := grids.get(name)) is not None:
            names = [name, *norms_beside(name, route.nodes)]
            layers += [Layer(value, grid.size, channels_last=True, tokens_before=grid.before) for value in names]
    return layers


def _maps(route: Paths, facts: Facts) -> Iterator[Layer]:
    producers = {output: node for node in route.nodes for output in node.output}
    behind_convolution = set[str]()
    for node in route.nodes:
        if node.op_type == "Conv" or behind_convolution.intersection(node.input):
            behind_convolution.update(node.output)
    for name in route.cuts:
        shape = facts.shapes[name]
        if name not in behind_convolution or len(shape) != 4:
            continue
        axis = channel_axis(name, producers, route, facts)
        sides = (shape[1], shape[2]) if axis == 3 else (shape[2], shape[3])
        if axis is not None and max(sides) > 1:
            yield Layer(name, sides, channels_last=axis == 3)


def channel_axis(name: str, producers: Mapping[str, onnx.NodeProto], route: Paths, facts: Facts) -> int | None:
    """Return which axis of a value holds the channels: 1 or 3; None where nothing says so.

    What reads the value tells most surely: pooling over its height and width. Else what it was made by does.
    """
    by_producers = _axis_of_producers(name, producers)
    if by_producers == _IN_ANOTHER_ORDER:
        return None
    return _axis_of_readers(name, route, facts) or by_producers


def _axis_of_readers(name: str, route: Paths, facts: Facts) -> int | None:
    for node in route.nodes:
        if name in node.input and name == node.input[0]:
            if node.op_type in _CHANNELS_FIRST:
                return 1
            if node.op_type in ("ReduceMean", "ReduceMax", "ReduceSum"):
                axes = attribute(node, "axes")
                if axes is None and len(node.input) > 1:
                    axes = facts.constant(node.input[1])
                return _POOLED.get(tuple(sorted(int(axis) % 4 for axis in axes))) if axes is not None else None
    return None


def _axis_of_producers(name: str, producers: Mapping[str, onnx.NodeProto]) -> int | None:
    """Follow a value to where it comes from, through whatever leaves the axes as they are."""
    order = [0, 1, 2, 3]
    while (node := producers.get(name)) is not None:
        if node.op_type in _CHANNELS_FIRST:
            return _AXIS_BY_ORDER.get(tuple(order), _IN_ANOTHER_ORDER)
        if node.op_type == "Transpose":
            perm = list(attribute(node, "perm", [3, 2, 1, 0]))
            order = [perm[axis] for axis in order]
        elif node.op_type not in _KEEPS_LAYOUT:
            return None
        name = next((value for value in node.input if value in producers), "")
    return None
