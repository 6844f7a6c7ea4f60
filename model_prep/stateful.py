"""Moves a language model's keys and values into its state, with a fused beam_idx; knows no arithmetic."""

import numpy as np
from openvino import Model, PartialShape, Type, opset13
from openvino._offline_transformations import apply_make_stateful_transformation

from contract.model_folder import BEAM_IDX, INPUTS_EMBEDS

PAST_PREFIX = "past_key_values."
PRESENT_PREFIX = "present."


def make_stateful(model: Model) -> None:
    """Turn the past_key_values.* inputs and present.* outputs of `model` into state, in place.

    Adds the input beam_idx (row) int32: row r of a call continues row beam_idx[r] of the previous call, which
    forks, reorders and drops rows. After a reset the state is empty, with as many rows as inputs_embeds.
    """
    pairs = _state_pairs(model)
    _fuse_beam_idx(model, list(pairs))
    apply_make_stateful_transformation(model, pairs)
    _initialise_state(model)
    model.validate_nodes_and_infer_types()


def _state_pairs(model: Model) -> dict[str, str]:
    """past_key_values.N.key → present.N.key, and the same for values."""
    past = [name for port in model.inputs for name in port.get_names() if name.startswith(PAST_PREFIX)]
    return {name: PRESENT_PREFIX + name.removeprefix(PAST_PREFIX) for name in past}


def _fuse_beam_idx(model: Model, past_names: list[str]) -> None:
    """Insert a Gather by beam_idx on the row axis after each past input."""
    beam_idx = opset13.parameter(PartialShape([-1]), Type.i32, name=BEAM_IDX)
    beam_idx.output(0).get_tensor().set_names({BEAM_IDX})
    model.add_parameters([beam_idx])
    row_axis = opset13.constant(0, dtype=np.int64)
    for name in past_names:
        past = model.input(name)
        readers = past.get_target_inputs()
        gathered = opset13.gather(past, beam_idx, row_axis)
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()


def _initialise_state(model: Model) -> None:
    """Start each state empty with as many rows as inputs_embeds; otherwise the batch size is fixed."""
    shape = opset13.shape_of(model.input(INPUTS_EMBEDS), output_type="i64")
    rows = opset13.gather(shape, opset13.constant([0], dtype=np.int64), opset13.constant(0, dtype=np.int64))
    for node in model.get_ops():
        if node.get_type_name() != "ReadValue":
            continue
        _, *sizes = (dim.get_min_length() for dim in node.get_output_partial_shape(0))
        empty = opset13.concat([rows, opset13.constant(sizes, dtype=np.int64)], axis=0)
        start = opset13.constant(0.0, dtype=node.get_output_element_type(0))
        node.set_arguments([opset13.broadcast(start, empty)])
