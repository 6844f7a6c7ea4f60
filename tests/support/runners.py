"""The runners on OpenVINO that must all give the same logits, in f32 unless said; knows no test."""

from collections.abc import Callable, Mapping
from pathlib import Path

import openvino as ov

from worker.engine.cohort import CacheSize
from worker.engine.graph import last_position_only
from worker.engine.paged import PagedRunner
from worker.engine.runner import Runner
from worker.engine.stateful import StatefulRunner

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
KV_CACHE_BYTES = 2**26
HEAVY_BYTES = 2**50
"""Weights that take so long to read that to share their reading always pays."""


def stateful(language_xml: Path, properties: Mapping[str, str] = EXACT) -> StatefulRunner:
    return StatefulRunner.load(language_xml, "CPU", properties)


def compiled_for_cohorts(language_xml: Path, properties: Mapping[str, str] = EXACT) -> ov.CompiledModel:
    """The compiled model and sizes for a StatefulRunner or a Cohort made by hand."""
    model = ov.Core().read_model(language_xml)
    last_position_only(model)
    return ov.Core().compile_model(model, "CPU", dict(properties))


def merging(language_xml: Path, properties: Mapping[str, str] = EXACT) -> StatefulRunner:
    """A runner that merges cohorts wherever it can; on a small model merging would not pay."""
    compiled = compiled_for_cohorts(language_xml, properties)
    return StatefulRunner(compiled, CacheSize(1, 1, HEAVY_BYTES), merges=True)


def paged(language_xml: Path, properties: Mapping[str, str] = EXACT) -> PagedRunner:
    return PagedRunner.load(language_xml, "CPU", properties, KV_CACHE_BYTES)


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "stateful": stateful,
    "stateful, merging": merging,
    "paged": paged,
}
