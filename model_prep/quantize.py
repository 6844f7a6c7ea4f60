"""Quantizes weights and activations of one exported part to 8 bits, by calibration; knows no files."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, Final

import nncf
import numpy as np
from numpy.typing import NDArray
from openvino import Model

from contract.model_folder import PIXEL_VALUES
from model_prep.layer_names import nodes_in
from model_prep.refusal import ConversionError

FloatArray = NDArray[np.float32]
VISION_ALPHA: Final = 0.6
LANGUAGE_ALPHA: Final = 0.25
"""Defaults of SmoothQuant's alpha; docs/compression.md has the figures."""
ATTENTION: Final = "ScaledDotProductAttention"


class UnquantizableError(ConversionError):
    """A part that cannot be quantized; `reason` is the rest of a sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"A part cannot be quantized, because {reason}; --preset balanced keeps 16 bits.")
        self.reason = reason


def quantize_vision(
    model: Model, tiles: Sequence[FloatArray], alpha: float | None, kept: Collection[str] = ()
) -> Model:
    """The model quantized by the pixel_values (tile, 3, height, width) of images, without the layers `kept`.

    `kept` has layers as of model_prep.layer_names.
    """
    calls = [{PIXEL_VALUES: pixel_values} for pixel_values in tiles]
    return _quantize(model, calls, VISION_ALPHA if alpha is None else alpha, kept)


def quantize_language(
    model: Model, calls: Sequence[Mapping[str, np.ndarray[Any, Any]]], kept: Collection[str] = ()
) -> Model:
    """The stateful model quantized by first calls with prompts, each with an empty state, without `kept`.

    Attention is not quantized: quantized keys between attention and state would prevent their fusion.
    """
    return _quantize(model, calls, LANGUAGE_ALPHA, kept)


def _quantize(
    model: Model,
    calls: Sequence[Mapping[str, np.ndarray[Any, Any]]],
    alpha: float,
    kept: Collection[str],
) -> Model:
    names = nodes_in(model, kept) if kept else []
    try:
        with quietly():
            return nncf.quantize(
                model,
                nncf.Dataset(calls),
                subset_size=len(calls),
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=names, types=[ATTENTION], validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=alpha)
                ),
            )
    except (RuntimeError, nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnquantizableError(f"NNCF cannot quantize it: {reason.rstrip('.')}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """A block in which NNCF prints no notes and no progress bars."""
    logging.getLogger("nncf").setLevel(logging.WARNING)
    with redirect_stdout(StringIO()):
        yield
