"""Measures this machine's peak rates of matrix products and copies; knows no language model."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import sched_getaffinity
from typing import Final

import numpy as np
import openvino
from openvino import Model, Type, opset13

SIDE: Final = 4096
"""Side of the square weights; the values multiplied by them have half as many rows."""
COPY_BYTES: Final = 256 << 20
TRIALS: Final = 5


@dataclass(frozen=True)
class Peaks:
    """The best of TRIALS trials for each rate."""

    gemm_flops: dict[str, float]
    """Compute type → floating point (or integer) operations per second."""
    copy_bytes_per_s: float
    """Bytes read plus bytes written, per second."""


def measure_peaks() -> Peaks:
    """The peaks of an otherwise idle machine; takes seconds."""
    values = opset13.parameter([-1, SIDE], Type.f32)
    plain = opset13.constant(np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32))
    dynamic = {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"}
    gemm = {
        "f32": _gemm(values, values, plain, {"INFERENCE_PRECISION_HINT": "f32"}),
        "bf16": _gemm(values, values, plain, {"INFERENCE_PRECISION_HINT": "bf16"}),
        "int8 weights, group 128": _gemm(values, values, _int8_weights(), dynamic),
        "int8": _gemm(values, _quantized(values), _quantized(plain), {}),
    }
    return Peaks(gemm, _copy())


def _int8_weights() -> openvino.Node:
    """Weights as in a compressed model: int8 with one scale for each output feature."""
    random = np.random.default_rng(0)
    weights = opset13.constant(random.integers(-127, 128, (SIDE, SIDE), dtype=np.int8))
    scales = opset13.constant(np.full((SIDE, 1), 1e-2, dtype=np.float32))
    return opset13.multiply(opset13.convert(weights, "f32"), scales)


def _quantized(node: openvino.Node) -> openvino.Node:
    """A factor as in a model quantized with calibration, where both factors are int8."""
    low, high = opset13.constant(np.float32(-4)), opset13.constant(np.float32(4))
    return opset13.fake_quantize(node, low, high, low, high, 255)


def _gemm(
    parameter: openvino.Node, values: openvino.Node, weights: openvino.Node, properties: Mapping[str, str]
) -> float:
    """Operations per second of `values` (rows, SIDE), made from `parameter`, times `weights` (SIDE, SIDE)."""
    rows = SIDE // 2
    product = opset13.matmul(values, weights, transpose_a=False, transpose_b=True)
    # Return one number, so that the time is the product's and not that of its output.
    largest = opset13.reduce_max(product, opset13.constant([0, 1]), keep_dims=False)
    model = Model([largest], [parameter])
    request = openvino.Core().compile_model(model, "CPU", dict(properties)).create_infer_request()
    array = np.random.default_rng(1).standard_normal((rows, SIDE), dtype=np.float32)
    seconds = _best(lambda: request.infer([array]))
    return 2 * rows * SIDE * SIDE / seconds


def _copy() -> float:
    """Bytes per second of one numpy copy on each core, all at once."""
    cores = len(sched_getaffinity(0))
    sources = [np.ones(COPY_BYTES, dtype=np.uint8) for _ in range(cores)]
    targets = [np.empty_like(source) for source in sources]
    with ThreadPoolExecutor(cores) as pool:
        seconds = _best(lambda: list(pool.map(np.copyto, targets, sources)))
    return 2 * cores * COPY_BYTES / seconds


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of TRIALS trials, after one that does not count."""
    work()
    seconds = []
    for _ in range(TRIALS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
