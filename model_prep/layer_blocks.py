"""Cuts the language model of a folder into blocks of layers, and runs one after another; knows no torch.

What a block makes of every prompt is recorded for the next one, so that memory holds one block at a time.
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
"""How the name of a node begins that was traced in a layer, or in a part of one."""
LAYER_ITSELF: Final = re.compile(r"__module\.decoder\.layers\.(\d+)/")
"""That of a node in no part of the layer; the residual stream's last sum is one."""

AXES: Final = 3
"""Row, position, hidden."""


class UncutError(ConversionError):
    """No single tensor leads from one layer to the next."""


class Graph:
    """A language model as it lies in a folder, to be cut between its layers."""

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
        """The layers from `first` on, before `last`, with the ports of the whole model.

        inputs_embeds is what the layer before gave, and the output what the last one gives.
        """
        return self._cut(first, self._ends[min(last, self.layers) - 1])

    def head(self) -> Model:
        """The last layer's output, as inputs_embeds → logits."""
        return self._cut(self.layers, self._logits)

    def _cut(self, first: int, end: str) -> Model:
        # Read anew, as weights that are mapped into memory stay there as long as their model does.
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
    """A stateful language model with one row, of which `at_once` layers are in memory."""

    def __init__(self, xml: Path, at_once: int) -> None:
        """Raises UncutError."""
        self._graph = Graph(xml)
        self._at_once = min(at_once, self._graph.layers)

    def cost(self, prompt: FloatArray) -> Cost:
        """Of all layers, as the first block shows on prompt (position, hidden)."""
        begun = time.perf_counter()
        request = request_of(self._graph.block(0, self._at_once), EXACT)
        prefill(request, prompt[:1])  # the first call arranges the weights
        loading_s = time.perf_counter() - begun
        blocks = self._graph.layers / self._at_once
        position_s = timed_s(lambda: prefill(request, prompt)) / len(prompt)
        return Cost(blocks * loading_s, blocks * position_s)

    def logits(self, asked: Sequence[PromptAndAnswer], on_layers: Callable[[int], None]) -> list[FloatArray]:
        """As Language.logits has it. `on_layers` is told of each prompt's way through so many more layers."""
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
    """The names of the nodes that give the layers' outputs, in order. Raises UncutError."""
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
    """By the next layer, or by what is behind the last one."""
    readers = (reader.get_node().get_friendly_name() for reader in node.output(0).get_target_inputs())
    return any(
        name.startswith(DECODER) and ((other := LAYER.match(name)) is None or other[1] != layer)
        for name in readers
    )


def _behind(node: Node) -> list[Node]:
    """All nodes that `node` is computed from, and itself."""
    found: dict[str, Node] = {}
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_friendly_name() not in found:
            found[one.get_friendly_name()] = one
            waiting += [value.get_node() for value in one.input_values()]
    return list(found.values())
