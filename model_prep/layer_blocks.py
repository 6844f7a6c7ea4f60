"""Cuts a language model into blocks of layers and runs them one after another; knows no torch.

Each block's output for every prompt is kept as the next block's input, so that memory holds one block.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import openvino
from openvino import Model, Node

from contract.model_folder import INPUTS_EMBEDS, LOGITS
from model_prep.inference import EXACT, Cost, PromptAndAnswer, each_alone, prefill, request_of, timed_s
from model_prep.reference import FloatArray
from model_prep.refusal import ConversionError

DECODER: Final = "__module.decoder."
LAYER: Final = re.compile(r"__module\.decoder\.layers\.(\d+)[./]")
"""Beginning of the name of a node in a layer, or in a module of it."""
LAYER_ITSELF: Final = re.compile(r"__module\.decoder\.layers\.(\d+)/")
"""Beginning of the name of a node in the layer itself, such as the last residual sum."""
AXES: Final = 3
"""Axes of a layer's output: row, position, hidden."""


class UncutError(ConversionError):
    """The language model has no single tensor between one layer and the next."""


class Graph:
    """A language model on disk, to be cut between its layers."""

    def __init__(self, xml: Path) -> None:
        """Raises UncutError."""
        self._xml = xml
        model = openvino.Core().read_model(xml)
        self._ends = list(_ends(model))
        self._logits = model.output(LOGITS).get_node().get_friendly_name()

    @property
    def layers(self) -> int:
        return len(self._ends)

    def block(self, first: int, last: int) -> Model:
        """Layers `first` to `last` - 1 as a model with the ports of the whole model.

        Its inputs_embeds is the output of the layer before, its output that of the last layer.
        """
        return self._cut(first, self._ends[min(last, self.layers) - 1])

    def head(self) -> Model:
        """The head: the last layer's output, as inputs_embeds, → logits."""
        return self._cut(self.layers, self._logits)

    def _cut(self, first: int, end: str) -> Model:
        # Read the model again: mapped weights stay in memory as long as their model.
        model = openvino.Core().read_model(self._xml)
        nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
        if first > 0:
            for reader in nodes[self._ends[first - 1]].output(0).get_target_inputs():
                reader.replace_source_output(model.input(INPUTS_EMBEDS).get_node().output(0))
        last = nodes[end]
        read = _behind(last)
        states = {node.get_variable_id() for node in read if node.get_type_name() == "ReadValue"}
        sinks = [node for node in model.get_sinks() if node.get_variable_id() in states]
        return Model([last.output(0)], sinks, model.get_parameters())


class LayerBlocks:
    """A stateful language model with one row and `at_once` layers in memory."""

    def __init__(self, xml: Path, at_once: int) -> None:
        """Raises UncutError."""
        self._graph = Graph(xml)
        self._at_once = min(at_once, self._graph.layers)

    def cost(self, prompt: FloatArray) -> Cost:
        """The cost of all layers, estimated by the first block on prompt (position, hidden)."""
        begun = time.perf_counter()
        request = request_of(self._graph.block(0, self._at_once), EXACT)
        prefill(request, prompt[:1])  # the first call arranges the weights
        loading_s = time.perf_counter() - begun
        blocks = self._graph.layers / self._at_once
        position_s = timed_s(lambda: prefill(request, prompt)) / len(prompt)
        return Cost(blocks * loading_s, blocks * position_s)

    def logits(self, asked: Sequence[PromptAndAnswer], on_layers: Callable[[int], None]) -> list[FloatArray]:
        """Logits as of Language.logits. `on_layers` gets the number of layers that a prompt has passed."""
        states = [np.concatenate([prompt, following]) for prompt, following in asked]
        for first in range(0, self._graph.layers, self._at_once):
            last = min(first + self._at_once, self._graph.layers)
            request = request_of(self._graph.block(first, last), EXACT)
            for number, state in enumerate(states):
                states[number] = prefill(request, state)
                on_layers(last - first)
            del request
        head = request_of(self._graph.head(), EXACT)
        return [
            each_alone(head, state[len(prompt) - 1 :])
            for state, (prompt, _) in zip(states, asked, strict=True)
        ]


def _ends(model: Model) -> Iterator[str]:
    """Names of the nodes with the layers' outputs, in order. Raises UncutError."""
    hidden = model.input(INPUTS_EMBEDS).get_partial_shape()[2]
    found: dict[int, str] = {}
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        layer = LAYER_ITSELF.match(name)
        if layer is None or int(layer[1]) in found or not _is_read_behind(layer[1], node):
            continue
        shape = node.get_output_partial_shape(0)
        if shape.rank.get_length() == AXES and shape[2] == hidden:
            found[int(layer[1])] = name
    if not found or list(found) != list(range(len(found))):
        raise UncutError("This language model cannot be cut between its layers.")
    yield from found.values()


def _is_read_behind(layer: str, node: Node) -> bool:
    """Whether a node outside `layer` reads it: in the next layer, or after the last one."""
    readers = (reader.get_node().get_friendly_name() for reader in node.output(0).get_target_inputs())
    return any(
        name.startswith(DECODER) and ((other := LAYER.match(name)) is None or other[1] != layer)
        for name in readers
    )


def _behind(node: Node) -> list[Node]:
    """`node` and all nodes that it is computed from."""
    found: dict[str, Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_friendly_name() not in found:
            found[one.get_friendly_name()] = one
            waiting += [value.get_node() for value in one.input_values()]
    return list(found.values())
