"""The runners on OpenVINO, in f32, that must all give the same logits, by name; knows no test."""

from collections.abc import Callable
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


def stateful(language_xml: Path) -> StatefulRunner:
    return StatefulRunner.load(language_xml, "CPU", EXACT)


def compile_exact(language_xml: Path) -> ov.CompiledModel:
    """For a StatefulRunner made by hand."""
    model = ov.Core().read_model(language_xml)
    last_position_only(model)
    return ov.Core().compile_model(model, "CPU", EXACT)


def merging(language_xml: Path) -> StatefulRunner:
    """Merges cohorts wherever it can, which the weights of a tiny model are too light to make worth while."""
    return StatefulRunner(compile_exact(language_xml), CacheSize(1, 1, HEAVY_BYTES), merges=True)


def paged(language_xml: Path) -> PagedRunner:
    return PagedRunner.load(language_xml, "CPU", EXACT, KV_CACHE_BYTES)


RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "stateful": stateful,
    "stateful, merging": merging,
    "paged": paged,
}
