"""Compresses the weights of one exported part; knows no files and no checkpoint.

A part is in float32, or in float16 as read from an IR file. Then its weights stay mapped, and only one at a
time is copied into memory.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

import nncf
import numpy as np
from openvino import Model, Node, Type, opset13

from contract.model_folder import (
    ATTENTION_MASK,
    BEAM_IDX,
    INPUTS_EMBEDS,
    POSITION_IDS,
    TEXT_XML,
    VISION_XML,
    WeightFormat,
)
from model_prep.graph_names import name_by_place
from model_prep.quantize import FloatArray, quantize_language, quantize_vision, quietly
from model_prep.refusal import ConversionError
from model_prep.settings import LanguageSettings, PrepSettings, VisionSettings

BYTES_PER_WEIGHT: Final[dict[WeightFormat, float]] = {"fp32": 4, "fp16": 2, "int8": 1.05, "int4": 0.75}
"""Bytes per weight on disk, for a whole part; int8 has one float16 scale per output channel."""
GROUP_SIZE: Final = 128
SYMMETRIC: Final = False
"""Defaults of int4, with a ratio of 1; docs/compression.md has the figures."""
SMALLEST_GROUP: Final = 32
"""Weights in the smallest group of int4."""
HALF_MAX: Final = float(np.finfo(np.float16).max)


class Inputs(Protocol):
    """What parts get of a prompt."""

    @property
    def tiles(self) -> FloatArray:
        """(tile, 3, height, width), input of the vision model."""

    @property
    def inputs_embeds(self) -> FloatArray:
        """(position, hidden), input of the language model."""


def compress_language(
    model: Model, settings: LanguageSettings, prompts: Sequence[FloatArray] | None
) -> Model:
    """The language model compressed by `settings`; `model` may be changed in place.

    Each of `prompts` is the inputs_embeds (position, hidden) float32 of a prompt with its image, used only if
    settings.needs_calibration. Raises ConversionError.
    """
    name_by_place(model)
    calls = [_call(prompt) for prompt in _given(prompts, needed=settings.needs_calibration, what="prompts")]
    match settings.weight_format:
        case "fp32":
            pass
        case "fp16":
            _halve_matrices(model)
        case "int8" if settings.activations == "int8":
            model = quantize_language(model, calls, settings.kept_layers)
            if settings.kept_layers:
                _halve_matrices(model)
        case "int8":
            model = _to_int8(model)
        case "int4":
            model = _to_int4(model, settings, calls)
    name_by_place(model)
    return model


def compress_text(model: Model, settings: LanguageSettings) -> Model:
    """The token embeddings compressed by `settings`, int4 as int8; `model` may be changed in place."""
    name_by_place(model)
    if settings.weight_format in ("int8", "int4"):
        model = _to_int8(model)
    elif settings.weight_format == "fp16":
        _halve_matrices(model)
    name_by_place(model)
    return model


def compress_vision(model: Model, settings: VisionSettings, tiles: Sequence[FloatArray] | None) -> Model:
    """Vision tower and projector compressed by `settings`; `model` may be changed in place.

    Each of `tiles` is the pixel_values (tile, 3, height, width) float32 of an image, used only if
    settings.needs_calibration. Raises ConversionError.
    """
    name_by_place(model)
    images = _given(tiles, needed=settings.needs_calibration, what="tiles")
    if settings.vision_format == "int8":
        model = quantize_vision(model, images, settings.smooth_quant_alpha, settings.kept_layers)
    if settings.vision_format in ("fp16", "int8"):
        # Also after quantizing: position embeddings and other matrices stay in floating point.
        _halve_matrices(model)
    name_by_place(model)
    return model


def compress_part(model: Model, xml: str, settings: PrepSettings, prompts: Sequence[Inputs] | None) -> Model:
    """The part of the file name `xml` compressed by `settings`, calibrated on `prompts` if they say so.

    `model` may be changed in place. Raises ConversionError.
    """
    if xml == TEXT_XML:
        return compress_text(model, settings.language)
    if xml == VISION_XML:
        tiles = None if prompts is None else [prompt.tiles for prompt in prompts]
        return compress_vision(model, settings.vision, tiles)
    embeds = None if prompts is None else [prompt.inputs_embeds for prompt in prompts]
    return compress_language(model, settings.language, embeds)


def bytes_per_weight(settings: LanguageSettings) -> float:
    """Estimated bytes per weight of the language model on disk; the 8-bit head is not counted apart."""
    if settings.weight_format != "int4":
        return BYTES_PER_WEIGHT[settings.weight_format]
    group = settings.group_size or GROUP_SIZE
    scale_bytes = 0.05 if group == -1 else 2.5 / group
    share = 1.0 if settings.ratio is None else settings.ratio
    return share * (0.5 + scale_bytes) + (1 - share) * BYTES_PER_WEIGHT["int8"]


def _given(arrays: Sequence[FloatArray] | None, *, needed: bool, what: str) -> Sequence[FloatArray]:
    if not needed:
        return ()
    if not arrays:
        raise ConversionError(f"These settings need {what} to calibrate with, and there are none.")
    return arrays


def _call(prompt: FloatArray) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of a first call with one row, the prompt (position, hidden)."""
    positions = len(prompt)
    return {
        INPUTS_EMBEDS: prompt[None],
        ATTENTION_MASK: np.ones((1, positions), np.int64),
        POSITION_IDS: np.arange(positions, dtype=np.int64)[None],
        BEAM_IDX: np.zeros(1, np.int32),
    }


def _to_int8(model: Model) -> Model:
    with quietly():
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)


def _to_int4(model: Model, settings: LanguageSettings, calls: list[dict[str, np.ndarray[Any, Any]]]) -> Model:
    """The model in 4 bits, with 8 bits for the head and the share of weights beyond `ratio`.

    Where the group size does not divide a channel, groups have the largest power of two that does. If that
    is below SMALLEST_GROUP, the weights are in 8 bits.
    """
    symmetric = SYMMETRIC if settings.sym is None else settings.sym
    modes = nncf.CompressWeightsMode
    calibration: dict[str, Any] = {}
    if calls:
        calibration = {
            "dataset": nncf.Dataset(calls),
            "subset_size": len(calls),
            "awq": settings.awq or None,
            "scale_estimation": settings.scale_estimation or None,
        }
    with quietly():
        return nncf.compress_weights(
            model,
            mode=modes.INT4_SYM if symmetric else modes.INT4_ASYM,
            group_size=settings.group_size or GROUP_SIZE,
            ratio=1.0 if settings.ratio is None else settings.ratio,
            backup_mode=nncf.BackupMode.INT8_ASYM,
            advanced_parameters=nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
                min_adjusted_group_size=SMALLEST_GROUP,
            ),
            **calibration,
        )


def compress_weights(model: Model, weight_format: WeightFormat) -> Model:
    """The model with weights in `weight_format`, activations unchanged; may change `model` in place."""
    return compress_text(model, LanguageSettings(weight_format=weight_format))


def _halve_matrices(model: Model) -> None:
    """Store every weight matrix as float16 with a conversion to float32; changes `model` in place.

    openvino.save_model(compress_to_fp16=True) would also round the rotary frequencies to 11 bits. Multiplied
    by the position, that turns the angles of a long prompt by a radian.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == Type.f32 and _is_matrix(node):
            values = node.data
            if max(values.max(), -values.min()) > HALF_MAX:
                continue
            half = opset13.constant(values.astype(np.float16))
            whole = opset13.convert(half, "f32")
            whole.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(whole.output(0))


def _is_matrix(constant: Node) -> bool:
    """Whether it is a matrix, table or kernel, and not a vector or a number."""
    wide_axes = [size for size in constant.get_output_shape(0) if size > 1]
    return len(wide_axes) > 1
