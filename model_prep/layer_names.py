"""Finds the layers of an exported part by the names of its nodes; knows no weights."""

import re
from collections.abc import Collection
from typing import Final

from openvino import Model

LAYER: Final = re.compile(r"\b(?:layers?|blocks?|resblocks)\.(\d+)[./]")
"""A layer's number in a node's name, such as __module.decoder.layers.3.mlp/…"""
OUTSIDE: Final = "outside"
"""Name for all that is in no layer: projector, head, patch embedding."""
PRODUCTS: Final = ("MatMul", "Convolution")


def layer_of(node_name: str) -> str:
    """The layer of a node: its number, or OUTSIDE."""
    found = LAYER.search(node_name)
    return OUTSIDE if found is None else found[1]


def layers_of(model: Model) -> tuple[str, ...]:
    """The layers with products in them, in the order of the graph, OUTSIDE last if there is any."""
    names = (node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in PRODUCTS)
    found = dict.fromkeys(map(layer_of, names))
    return tuple(sorted(found, key=lambda layer: layer == OUTSIDE))


def nodes_in(model: Model, layers: Collection[str]) -> list[str]:
    """Names of all nodes with inputs in these layers."""
    names = (node.get_friendly_name() for node in model.get_ordered_ops() if node.get_input_size())
    return [name for name in names if layer_of(name) in layers]


def in_words(layers: Collection[str]) -> str:
    """The layers for people, such as `layers 3, 4 and what is outside the layers`."""
    numbers = [layer for layer in layers if layer != OUTSIDE]
    said = [f"layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"] if numbers else []
    return " and ".join([*said, *(["what is outside the layers"] if OUTSIDE in layers else [])])
