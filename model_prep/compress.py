"""Shrinks the weights of one exported part; knows no files and no part's meaning."""

import logging
from contextlib import redirect_stdout
from io import StringIO

import nncf
import numpy as np
from openvino import Model, Node, Type, opset13

from contract.model_folder import WeightFormat

BYTES_PER_WEIGHT: dict[WeightFormat, float] = {"fp32": 4, "fp16": 2, "int8": 1.05}
"""On disk; the scales of int8 are one float16 for each output channel."""
HALF_MAX = float(np.finfo(np.float16).max)


def compress_weights(model: Model, weight_format: WeightFormat) -> Model:
    """Return `model` with its weights in `weight_format`; `model` itself may be changed."""
    if weight_format == "int8":
        logging.getLogger("nncf").setLevel(logging.WARNING)
        # It draws a progress bar of its own on stdout, across the one of whoever converts.
        with redirect_stdout(StringIO()):
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    if weight_format == "fp16":
        _halve_matrices(model)
    return model


def _halve_matrices(model: Model) -> None:
    """Store every weight matrix as float16, turned into float32 where it is read.

    openvino.save_model(compress_to_fp16=True) would take the rotary frequencies along: rounded to 11 bits and
    multiplied by the position, they turn the angles of a long prompt by a radian.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == Type.f32 and _is_matrix(node):
            values = node.data
            if np.abs(values).max() > HALF_MAX:
                continue
            half = opset13.constant(values.astype(np.float16))
            whole = opset13.convert(half, "f32")
            whole.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(whole.output(0))


def _is_matrix(constant: Node) -> bool:
    """Matrices, tables and kernels; not the vectors of norms, biases and frequencies, nor numbers."""
    wide_axes = [size for size in constant.get_output_shape(0) if size > 1]
    return len(wide_axes) > 1
