"""Has a language model compute the logits of the last position only; knows its graph, not what runs it."""

from typing import Final

import numpy as np
import openvino as ov
from openvino import opset13

from contract.model_folder import LOGITS

POSITION_AXIS: Final = 1
MAX_INT64: Final = 2**63 - 1
ELEMENTWISE: Final = {"Convert", "Multiply", "Divide", "Add", "Subtract", "Tanh", "Clamp"}
"""Operations that may stand between lm_head and the logits: casts, scales, biases and soft caps."""


def last_position_only(model: ov.Model) -> None:
    """Change `model` in place: lm_head reads the last position, and the logits are (row, 1, vocabulary).

    An export that has such logits already is left alone. optimum's have those of every position, some hundred
    megabytes per prompt. Raises ValueError if there is no matrix product to slice before.
    """
    (head,) = (port.get_node().input(0) for port in model.outputs if LOGITS in port.get_names())
    if not _has_positions(head):
        return
    while (node := head.get_source_output().get_node()).get_type_name() != "MatMul":
        varying = [port for port in node.inputs() if _has_positions(port)]
        if node.get_type_name() not in ELEMENTWISE or len(varying) != 1:
            raise ValueError(
                f"The language model's {LOGITS} are of every position, and come from {node.get_type_name()}."
            )
        (head,) = varying
    hidden = node.input(0)
    if not _has_positions(hidden) or node.get_attributes()["transpose_a"]:
        raise ValueError(f"The language model's {LOGITS} are of every position, not hidden states x weights.")
    last, end, step, axis = (opset13.constant([n], dtype=np.int64) for n in (-1, MAX_INT64, 1, POSITION_AXIS))
    sliced = opset13.slice(hidden.get_source_output(), last, end, step, axis)
    hidden.replace_source_output(sliced.output(0))
    model.validate_nodes_and_infer_types()


def _has_positions(port: ov.Input) -> bool:
    """Whether the input is (row, position, …) with more than one position."""
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 3:
        return False
    most: int = shape[POSITION_AXIS].get_max_length()
    return most != 1
