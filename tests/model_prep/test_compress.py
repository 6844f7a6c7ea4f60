"""Holds each way to compress a part to its size, its closeness and its bytes; knows no checkpoint."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from openvino import opset13

from contract.model_folder import (
    ATTENTION_MASK,
    BEAM_IDX,
    INPUTS_EMBEDS,
    LANGUAGE_XML,
    LOGITS,
    POSITION_IDS,
    TEXT_XML,
    VISION_XML,
    WeightFormat,
)
from model_prep.compress import bytes_per_weight, compress_language, compress_text, compress_vision
from model_prep.refusal import ConversionError
from model_prep.settings import LanguageSettings, VisionSettings

FloatArray = NDArray[np.float32]
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "PERF_COUNT": "YES"}
HIDDEN = 64
INT8 = LanguageSettings(weight_format="int8")
INT8_ACTIVATIONS = LanguageSettings(weight_format="int8", activations="int8")
VISION_INT8 = VisionSettings(vision_format="int8")
FOUR_BITS = {"i4", "u4"}


def int4(**wishes: Any) -> LanguageSettings:
    return LanguageSettings(weight_format="int4", **wishes)


def arrays(count: int, *shape: int) -> list[FloatArray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(shape, dtype=np.float32) for _ in range(count)]


def prompts(count: int = 4) -> list[FloatArray]:
    """inputs_embeds (position, hidden), a few features far louder than the others, as in trained models."""
    loud = np.ones(HIDDEN, np.float32)
    loud[:4] = 12
    return [loud * embeds for embeds in arrays(count, 11, HIDDEN)]


def tiles(count: int = 3) -> list[FloatArray]:
    return arrays(count, 2, 3, 56, 56)


def language(folder: Path, settings: LanguageSettings, given: list[FloatArray] | None = None) -> ov.Model:
    return compress_language(ov.Core().read_model(folder / LANGUAGE_XML), settings, given)


def vision(folder: Path, settings: VisionSettings, given: list[FloatArray] | None = None) -> ov.Model:
    return compress_vision(ov.Core().read_model(folder / VISION_XML), settings, given)


def call(embeds: FloatArray, past: int = 0) -> dict[str, Any]:
    """One row of `embeds` (position, hidden)."""
    positions = len(embeds)
    return {
        INPUTS_EMBEDS: embeds[None],
        ATTENTION_MASK: np.ones((1, past + positions), np.int64),
        POSITION_IDS: np.arange(past, past + positions)[None],
        BEAM_IDX: np.zeros(1, np.int32),
    }


def logits(model: ov.Model, embeds: FloatArray) -> FloatArray:
    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    result: FloatArray = request.infer(call(embeds))[LOGITS].copy()
    return result


def distance(model: ov.Model, reference: ov.Model, given: list[FloatArray]) -> float:
    """Mean absolute difference of the logits, in standard deviations of the reference's."""
    expected = np.concatenate([logits(reference, embeds) for embeds in given])
    found = np.concatenate([logits(model, embeds) for embeds in given])
    return float(np.abs(found - expected).mean() / expected.std())


def matrix_types(model: ov.Model) -> Counter[str]:
    """Types of matrices → how many of them, scales and zero points left out."""
    found: Counter[str] = Counter()
    for node in model.get_ops():
        wide = [size for size in node.get_output_shape(0) if size > 1] if is_constant(node) else []
        if (
            len(wide) > 1
            and "scale" not in node.get_friendly_name()
            and "zero_point" not in node.get_friendly_name()
        ):
            found[node.get_element_type().get_type_name()] += 1
    return found


def is_constant(node: ov.Node) -> bool:
    return bool(node.get_type_name() == "Constant")


def saved(model: ov.Model, folder: Path) -> tuple[bytes, bytes]:
    folder.mkdir()
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return (folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes()


@pytest.fixture(scope="module")
def exact(tiny_folder: Path) -> ov.Model:
    return language(tiny_folder, LanguageSettings(weight_format="fp32"))


def test_fp16_halves_matrices_alone(tiny_folder: Path, exact: ov.Model) -> None:
    model = language(tiny_folder, LanguageSettings())
    assert matrix_types(model) == {"f16": matrix_types(exact)["f32"]} == {"f16": 22}
    assert 0 < distance(model, exact, prompts()) < 0.005


def test_int8_is_asymmetric_everywhere_and_close(tiny_folder: Path, exact: ov.Model) -> None:
    model = language(tiny_folder, INT8)
    assert matrix_types(model) == {"u8": 22}
    assert 0 < distance(model, exact, prompts()) < 0.05


def test_int4_has_8_bits_in_the_head_alone(tiny_folder: Path, exact: ov.Model) -> None:
    assert matrix_types(language(tiny_folder, int4(sym=True))) == {"i4": 21, "u8": 1}
    model = language(tiny_folder, int4(sym=False))
    assert matrix_types(model) == {"u4": 21, "u8": 1}
    assert distance(language(tiny_folder, INT8), exact, prompts()) < distance(model, exact, prompts()) < 0.5


def test_the_ratio_is_the_share_in_4_bits(tiny_folder: Path) -> None:
    found = matrix_types(language(tiny_folder, int4(sym=True, group_size=64, ratio=0.6)))
    assert 8 < found["i4"] < 18
    assert found["i4"] + found["u8"] == 22


def test_groups_are_as_large_as_asked_or_as_fits(tiny_folder: Path, other_folder: Path) -> None:
    def groups(model: ov.Model) -> Counter[int]:
        shapes = [node.get_output_shape(0) for node in model.get_ops() if is_constant(node)]
        kinds = [node.get_element_type().get_type_name() for node in model.get_ops() if is_constant(node)]
        return Counter(shape[-1] for shape, kind in zip(shapes, kinds, strict=True) if kind == "i4")

    assert groups(language(tiny_folder, int4(sym=True, group_size=32))) == {32: 21}
    # 64 features are half a group of 128, the default.
    assert groups(language(tiny_folder, int4(sym=True))) == {64: 18, 128: 3}
    # 48 features have groups of 16 at most, too small to pay, 96 have groups of 32.
    assert groups(language(other_folder, int4(sym=True, group_size=64))) == {32: 4}
    assert groups(language(tiny_folder, int4(sym=True, group_size=-1))) == {64: 18, 128: 3}


def test_calibration_fits_the_scales_to_the_prompts(tiny_folder: Path, exact: ov.Model) -> None:
    plain = language(tiny_folder, int4(group_size=64))
    fitted = language(tiny_folder, int4(group_size=64, scale_estimation=True), prompts())
    smoothed = language(tiny_folder, int4(group_size=64, awq=True), prompts())
    far = distance(plain, exact, prompts())
    assert distance(fitted, exact, prompts()) < far
    assert distance(smoothed, exact, prompts()) < far


@pytest.mark.parametrize("nothing", [None, []], ids=str)
def test_calibration_needs_something_to_calibrate_with(
    tiny_folder: Path, nothing: list[FloatArray] | None
) -> None:
    for settings in (int4(awq=True), INT8_ACTIVATIONS):
        with pytest.raises(ConversionError, match="prompts to calibrate with"):
            language(tiny_folder, settings, nothing)
    with pytest.raises(ConversionError, match="tiles to calibrate with"):
        vision(tiny_folder, VISION_INT8, nothing)


def test_activations_in_8_bits_keep_attention_fused_and_state(tiny_folder: Path, exact: ov.Model) -> None:
    model = language(tiny_folder, INT8_ACTIVATIONS, prompts())
    assert distance(model, exact, prompts()) < 0.3
    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    (embeds,) = prompts(1)
    request.infer(call(embeds[:7]))
    stepped = request.infer(call(embeds[7:], past=7))[LOGITS]
    assert np.abs(stepped - logits(model, embeds)).max() < 1e-3
    kinds = Counter(node.node_type for node in request.profiling_info)
    assert kinds["ScaledDotProductAttentionWithKVCache"] == 3
    assert kinds["Softmax"] == 0
    types = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in request.get_compiled_model().get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    assert set(types) <= {"u8", "i8"}


@pytest.mark.parametrize(
    ("weight_format", "kind"), [("fp32", "f32"), ("fp16", "f16"), ("int8", "u8"), ("int4", "u8")]
)
def test_the_embeddings_are_never_below_8_bits(
    tiny_folder: Path, weight_format: WeightFormat, kind: str
) -> None:
    text = ov.Core().read_model(tiny_folder / TEXT_XML)
    assert matrix_types(compress_text(text, LanguageSettings(weight_format=weight_format))) == {kind: 1}


def test_vision_in_8_bits_is_close_and_smoothed_as_asked(tiny_folder: Path) -> None:
    def features(model: ov.Model) -> FloatArray:
        result: FloatArray = ov.Core().compile_model(model, "CPU", EXACT)([tiles()[0]])[0]
        return result

    expected = features(vision(tiny_folder, VisionSettings(vision_format="fp32")))
    found = [
        features(vision(tiny_folder, VisionSettings(vision_format="int8", smooth_quant_alpha=alpha), tiles()))
        for alpha in (0.2, 0.8)
    ]
    for quantized in found:
        assert 0 < np.abs(quantized - expected).mean() < 0.2 * expected.std()
    assert np.abs(found[0] - found[1]).max() > 0
    half = features(vision(tiny_folder, VisionSettings()))
    assert 0 < np.abs(half - expected).max() < 0.01 * expected.std()


def test_vision_in_8_bits_multiplies_in_8_bits(tiny_folder: Path) -> None:
    compiled = ov.Core().compile_model(vision(tiny_folder, VISION_INT8, tiles()), "CPU", EXACT)
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    products = [
        node["runtimePrecision"].astype(str)
        for node in nodes
        if node["layerType"].astype(str) == "FullyConnected"
    ]
    assert len(products) > 10
    assert set(products) <= {"u8", "i8"}


def compressed(folder: Path) -> dict[str, Callable[[], ov.Model]]:
    return {
        "fp16": lambda: language(folder, LanguageSettings()),
        "int8 activations": lambda: language(folder, INT8_ACTIVATIONS, prompts()),
        "int4 fitted": lambda: language(folder, int4(ratio=0.6, scale_estimation=True), prompts()),
        "vision": lambda: vision(folder, VISION_INT8, tiles()),
    }


@pytest.mark.parametrize("way", ["fp16", "int8 activations", "int4 fitted", "vision"])
def test_the_same_input_gives_the_same_bytes(tiny_folder: Path, tmp_path: Path, way: str) -> None:
    make = compressed(tiny_folder)[way]
    first = saved(make(), tmp_path / "first")
    # OpenVINO's counter of nameless nodes goes on.
    opset13.constant(np.zeros(1))
    assert saved(make(), tmp_path / "second") == first


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        (LanguageSettings(weight_format="fp32"), 4, 4),
        (LanguageSettings(), 2, 2),
        (INT8, 1, 1.1),
        (int4(), 0.5, 0.53),
        (int4(group_size=32), 0.55, 0.6),
        (int4(group_size=64, ratio=0.6), 0.7, 0.8),
    ],
    ids=str,
)
def test_the_size_is_known_beforehand(settings: LanguageSettings, low: float, high: float) -> None:
    assert low <= bytes_per_weight(settings) <= high
