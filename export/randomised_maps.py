"""What random weights make of a model's maps, and other layers and methods beside the card's. It needs PyTorch.

The check is the parameter randomisation of Adebayo et al. 2018 (arXiv:1810.03292), each part of the network by itself:
a map that stays the same while what follows its layer is random cannot explain what the network has learnt there.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.stats import spearmanr
from torch import nn

from explain.base import METHOD_NAMES, Float32Array, Int64Array
from explain.overlay import heatmap
from export import explanation_quality as quality
from export.explanation_quality import TOLERANCE_PX, Case
from export.layer_maps import AGAINST, Key, Maps, maps_at_layers, randomised_networks
from models.card import Explain, ImageCard

COARSE = (14, 14)
"""Heatmaps are compared at this size, where neighbouring pixels do not repeat one another."""


class Counts(NamedTuple):
    """How much is measured.

    Attributes:
        compare_on: number of cases for other layers and methods.
        random_on: number of cases for random weights.
        heads: number of random heads, each of which counts with its opposite.
        networks: number of networks with more random weights than the head's, likewise.
    """

    compare_on: int = 160
    random_on: int = 40
    heads: int = 8
    networks: int = 2


class RandomisedMaps(NamedTuple):
    """The maps of one network as it is, and with parts of its weights random.

    Attributes:
        layers: up to five layers around the card's, in the network's order.
        own: layer and method of the card.
        trained: the trained network's, of the first `compare_on` cases.
        by_part: which weights are random → the maps of each such network, of the first `random_on` cases. Those of
            `head` are of all layers, the others' of the card's.
    """

    layers: tuple[str, ...]
    own: Key
    trained: Maps
    by_part: dict[str, list[Maps]]


def compared_layers(network: nn.Module, layer: str) -> tuple[str, ...]:
    """Return a layer with up to two stages of the network before and after it, none of which is the head."""
    names = [name for name, _ in network.stages()][:-1]  # type: ignore[operator]
    index = names.index(layer)
    return tuple(names[max(0, index - 2) : index + 3])


def randomised_maps(
    card: ImageCard, explain: Explain, network: nn.Module, tensors: Float32Array, targets: Int64Array, counts: Counts
) -> RandomisedMaps:
    """Compute the maps of the trained network and of networks with random weights.

    Args:
        card: says how a network is built.
        explain: layer and method of the explanations.
        network: the trained network.
        tensors: the cases' pictures, shape (N, 3, h, w), float32.
        targets: the class that each picture is explained for, shape (N,), int64.
        counts: how much is computed.
    """
    layers, stages = compared_layers(network, explain.layer), [name for name, _ in network.stages()]  # type: ignore[operator]
    after_layer = [f"{name}." for name in stages[stages.index(explain.layer) + 1 :]]
    some, their_targets = tensors[: counts.random_on], targets[: counts.random_on]

    def of_random(prefixes: Sequence[str], at: Sequence[str], count: int) -> list[Maps]:
        networks = randomised_networks(card, network, prefixes, count)
        return [maps for mixed in networks for maps in maps_at_layers(mixed, at, some, their_targets)]

    return RandomisedMaps(
        layers,
        (explain.layer, explain.method),
        maps_at_layers(network, layers, tensors[: counts.compare_on], targets[: counts.compare_on])[0],
        {
            "head": of_random([f"{stages[-1]}."], layers, counts.heads),
            "after_layer": of_random(after_layer, [explain.layer], counts.networks),
            "all": of_random([""], [explain.layer], counts.networks),
        },
    )


def heats_of(maps: Maps, keys: Iterable[Key], size: tuple[int, int]) -> Float32Array:
    """Return the product of the heatmaps of these layers and methods, shape (N, *size), float32 in [0, 1]."""
    stretched = [np.stack([heatmap(cam, size) for cam in maps[key]]) for key in keys]
    return np.asarray(np.prod(stretched, axis=0), np.float32)


def pointing_game(cases: Sequence[Case], heats: Float32Array) -> float:
    """Return the share of the heatmaps (n, h, w) that peak on the mask of the first n cases, within the tolerance."""
    pairs = zip(heats, cases[: len(heats)], strict=True)
    return float(np.mean([quality.is_hit(quality.peak(heat), case.mask, TOLERANCE_PX) for heat, case in pairs]))


def randomised_figures(found: RandomisedMaps, cases: Sequence[Case], *, points: bool = True) -> dict[str, Any]:
    """Return what random weights make of the card's maps.

    Args:
        found: the maps.
        cases: the cases.
        points: whether the cases have masks, so that the pointing game can be played.

    Returns:
        Which weights are random → the pointing game and the rank correlation with the trained network's heatmaps, means
        over the networks and cases; `pointing_networks` is the number of networks whose pointing game is at least half
        of the trained network's.
    """
    size = cases[0].mask.shape[0], cases[0].mask.shape[1]
    trained = heats_of(found.trained, [found.own], size)[: len(found.by_part["head"][0][found.own])]
    of_trained = pointing_game(cases, trained)
    figures: dict[str, Any] = {"n": len(trained), "trained": {"pointing_game": round(of_trained, 4)}}
    for part, networks in found.by_part.items():
        heats = [heats_of(maps, [found.own], size) for maps in networks]
        each = [pointing_game(cases, some) for some in heats]
        figures[part] = {
            "networks": len(networks),
            "pointing_game": round(float(np.mean(each)), 4),
            "pointing_networks": sum(share >= of_trained / 2 for share in each),
            "rank_correlation": round(float(np.mean([rank_correlation(trained, some) for some in heats])), 4),
        }
    if not points:
        del figures["trained"]
        for part in found.by_part:
            del figures[part]["pointing_game"], figures[part]["pointing_networks"]
    return figures


def rank_correlation(heats: Float32Array, others: Float32Array) -> float:
    """Return the mean rank correlation of heatmaps with others of the same pictures; an even one counts as 0."""
    values = []
    for pair in zip(_coarse(heats), _coarse(others), strict=True):
        is_even = any(values.max() == values.min() for values in pair)
        values.append(0.0 if is_even else float(spearmanr(*pair).statistic))
    return float(np.mean(values))


def _coarse(heats: Float32Array) -> list[Float32Array]:
    return [np.asarray(cv2.resize(heat, COARSE, interpolation=cv2.INTER_AREA)).ravel() for heat in heats]


def compared_figures(found: RandomisedMaps, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return pointing game and energy of every layer and method, and of some products of two heatmaps.

    Returns:
        One row for each, the best pointing game first; `random_head` is the mean over the random heads.
    """
    size, rows = (cases[0].mask.shape[0], cases[0].mask.shape[1]), []
    for keys in _candidates(found):
        heats = heats_of(found.trained, keys, size)
        randomised = [pointing_game(cases, heats_of(maps, keys, size)) for maps in found.by_part["head"]]
        near = [quality.dilate(case.mask, TOLERANCE_PX) for case in cases[: len(heats)]]
        rows.append(
            {
                "layer": " x ".join(dict.fromkeys(layer for layer, _ in keys)),
                "method": " x ".join(dict.fromkeys(method for _, method in keys)),
                "pointing_game": round(pointing_game(cases, heats), 4),
                "random_head": round(float(np.mean(randomised)), 4),
                "energy_within_tolerance": round(
                    float(np.mean([quality.energy(heat, mask) for heat, mask in zip(heats, near, strict=True)])), 4
                ),
            }
        )
    return sorted(rows, key=lambda row: -row["pointing_game"])


def _candidates(found: RandomisedMaps) -> list[list[Key]]:
    """Return every layer and method, and products: at the card's layer, with the last layer's, with the neighbours'."""
    own, last = found.own[0], found.layers[-1]
    singles = [[(layer, method)] for layer in found.layers for method in METHOD_NAMES]
    products: list[list[Key]] = [
        [(own, "gradcam"), (own, "layercam")],
        [(own, "gradcam"), (own, AGAINST)],
        [(own, "layercam"), (own, "gradcam"), (own, AGAINST)],
    ]
    products += [[(own, method), (last, "gradcam")] for method in ("gradcam", "layercam") if own != last]
    before = found.layers[: found.layers.index(own)][-1:]
    return singles + products + [[(layer, "layercam"), (own, "layercam")] for layer in before]
