"""Quantizes weights and activations of one exported part to 8 bits, by calibration; knows no files."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, Final

import nncf
import numpy as np
from numpy.typing import NDArray
from openvino import Model

from contract.model_folder import PIXEL_VALUES

FloatArray = NDArray[np.float32]
VISION_ALPHA: Final = 0.6
LANGUAGE_ALPHA: Final = 0.25
"""Defaults of SmoothQuant's alpha; docs/compression.md has the figures."""
ATTENTION: Final = "ScaledDotProductAttention"


def quantize_vision(model: Model, tiles: Sequence[FloatArray], alpha: float | None) -> Model:
    """The model quantized by the pixel_values (tile, 3, height, width) of images."""
    calls = [{PIXEL_VALUES: pixel_values} for pixel_values in tiles]
    return _quantize(model, calls, VISION_ALPHA if alpha is None else alpha)


def quantize_language(model: Model, calls: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> Model:
    """The stateful model quantized by first calls with prompts, each with an empty state.

    Attention is not quantized: quantized keys between attention and state would prevent their fusion.
    """
    return _quantize(model, calls, LANGUAGE_ALPHA)


def _quantize(model: Model, calls: Sequence[Mapping[str, np.ndarray[Any, Any]]], alpha: float) -> Model:
    with quietly():
        return nncf.quantize(
            model,
            nncf.Dataset(calls),
            subset_size=len(calls),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(types=[ATTENTION], validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha)
            ),
        )


@contextmanager
def quietly() -> Iterator[None]:
    """A block in which NNCF prints no notes and no progress bars."""
    logging.getLogger("nncf").setLevel(logging.WARNING)
    with redirect_stdout(StringIO()):
        yield
