"""Changes a stateful language model to paged attention; knows its graph, not what runs it.

The transformation is private to OpenVINO, so its inputs and outputs are checked, and the release is.
"""

from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13
from openvino._offline_transformations import paged_attention_transformation

from contract.model_folder import INPUTS_EMBEDS, LOGITS, POSITION_IDS
from worker.engine.openvino_error import reason

TESTED_RELEASE: Final = "2026.4"

PAST_LENS: Final = "past_lens"
SUBSEQUENCE_BEGINS: Final = "subsequence_begins"
BLOCK_INDICES: Final = "block_indices"
BLOCK_INDICES_BEGINS: Final = "block_indices_begins"
MAX_CONTEXT_LEN: Final = "max_context_len"
LOGIT_ROWS: Final = "logit_rows"
STEP_PORTS: Final = {
    INPUTS_EMBEDS,
    POSITION_IDS,
    PAST_LENS,
    SUBSEQUENCE_BEGINS,
    BLOCK_INDICES,
    BLOCK_INDICES_BEGINS,
    MAX_CONTEXT_LEN,
}


def cache_ports(layers: int) -> list[str]:
    return [f"{kind}_cache.{layer}" for layer in range(layers) for kind in ("key", "value")]


def to_paged(model: ov.Model) -> int:
    """Change a stateful `model` in place → its number of layers.

    Its inputs are then STEP_PORTS, cache_ports(layers) and LOGIT_ROWS. The last are the positions whose
    logits (row, 1, vocabulary) are wanted, counted through all sequences of a step. Raises ValueError with
    one sentence if the release of OpenVINO or the model does not fit.
    """
    release = ov.get_version()
    if not release.startswith(f"{TESTED_RELEASE}."):
        raise ValueError(
            f"Paged attention needs OpenVINO {TESTED_RELEASE}, the only release that it was tested with; "
            f"this is {release}."
        )
    layers = len(model.get_sinks()) // 2
    try:
        paged_attention_transformation(model)
    except RuntimeError as error:
        raise ValueError(f"The language model has no form with paged attention: {reason(error)}") from error
    found = {port.any_name for port in model.inputs}
    expected = STEP_PORTS | set(cache_ports(layers))
    if found != expected:
        raise ValueError(
            "The language model with paged attention should not have the inputs "
            f"{sorted(found - expected)} and should have {sorted(expected - found)}."
        )
    _want_rows_only(model)
    return layers


def _want_rows_only(model: ov.Model) -> None:
    """Pass only the positions of LOGIT_ROWS on from the last attention.

    That skips most of the last layer as well as lm_head, also in an export with logits of every position.
    """
    rows = opset13.parameter([-1], np.int32, name=LOGIT_ROWS)
    rows.output(0).get_tensor().set_names({LOGIT_ROWS})
    every = _behind_attention(model)
    shape = every.get_partial_shape()
    if len(shape) != 3 or shape[1] != 1:
        raise ValueError(f"The language model with paged attention has hidden states {shape}, not [?, 1, ?].")
    consumers = every.get_target_inputs()
    wanted = opset13.gather(every, rows, opset13.constant(0, np.int32))
    for consumer in consumers:
        consumer.replace_source_output(wanted.output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()


def _behind_attention(model: ov.Model) -> ov.Output:
    """The first value after the last attention that alone decides the logits, weights aside.

    It is the residual stream before the last feed-forward network.
    """
    nodes = model.get_ordered_ops()
    place = {node.get_name(): index for index, node in enumerate(nodes)}
    sources = [{place[value.get_node().get_name()] for value in node.input_values()} for node in nodes]
    varying: set[int] = set()
    for index, node in enumerate(nodes):
        if node.get_type_name() == "Parameter" or sources[index] & varying:
            varying.add(index)
    logits = place[model.output(LOGITS).get_node().get_name()]
    attention = max(i for i, node in enumerate(nodes) if node.get_type_name().startswith("PagedAttention"))
    for index in range(attention + 1, logits):
        behind = {index}
        beside: set[int] = set()
        for later in range(index + 1, logits + 1):
            if sources[later] & behind:
                behind.add(later)
                beside |= sources[later]
        if index in varying and logits in behind and not (beside - behind) & varying:
            return nodes[index].output(0)
    raise AssertionError("the value that the logits are a matrix product of is such a one")
