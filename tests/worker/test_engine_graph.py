"""Compares the last-position slice with a model that computes logits of all positions, as optimum does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, LANGUAGE_XML, LOGITS, POSITION_IDS
from worker.engine.graph import last_position_only
from worker.engine.request import FloatArray
from worker.engine.runner import SequenceInput
from worker.engine.stateful import StatefulRunner

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
ROWS, POSITIONS, HIDDEN = 2, 7, 64


def constant(value: float) -> Any:
    return opset13.constant(np.full((1, 1, 1), value, dtype=np.float32))


def soft_capped(logits: Any) -> Any:
    return opset13.multiply(opset13.tanh(opset13.divide(logits, constant(3))), constant(3))


def cast_and_biased(logits: Any) -> Any:
    return opset13.add(opset13.convert(opset13.convert(logits, "f16"), "f32"), constant(0.5))


FINISHES: dict[str, Callable[[Any], Any]] = {
    "plain": lambda logits: logits,
    "scaled": lambda logits: opset13.multiply(logits, constant(0.5)),
    "soft cap": soft_capped,
    "cast and bias": cast_and_biased,
}
"""What models have between lm_head and the logits."""


def every_position(language_xml: Path, finish: Callable[[Any], Any] = FINISHES["plain"]) -> ov.Model:
    """Our export without the slice before its head."""
    model = ov.Core().read_model(language_xml)
    result = model.output(LOGITS).get_node()
    head = result.input_value(0).get_node()
    slice_ = head.input_value(0).get_node()
    assert (head.get_type_name(), slice_.get_type_name()) == ("MatMul", "Slice")
    head.input(0).replace_source_output(slice_.input_value(0))
    head.output(0).get_tensor().set_names(set())
    finished = finish(head.output(0))
    port = finished.output(0) if isinstance(finished, ov.Node) else finished
    result.input(0).replace_source_output(port)
    port.get_tensor().set_names({LOGITS})
    model.validate_nodes_and_infer_types()
    return model


def logits(model: ov.Model) -> FloatArray:
    """(row, position, vocabulary) or (row, 1, vocabulary) of a prompt of two rows."""
    inputs = {
        INPUTS_EMBEDS: np.random.default_rng(0).normal(size=(ROWS, POSITIONS, HIDDEN)).astype(np.float32),
        ATTENTION_MASK: np.ones((ROWS, POSITIONS), np.int64),
        POSITION_IDS: np.tile(np.arange(POSITIONS), (ROWS, 1)),
        BEAM_IDX: np.arange(ROWS, dtype=np.int32),
    }
    request = ov.Core().compile_model(model, "CPU", EXACT).create_infer_request()
    found: FloatArray = request.infer(inputs)[LOGITS].copy()
    return found


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES.keys())
def test_the_last_positions_logits_are_what_they_were(
    tiny_folder: Path, finish: Callable[[Any], Any]
) -> None:
    every = logits(every_position(tiny_folder / LANGUAGE_XML, finish))
    assert every.shape[:2] == (ROWS, POSITIONS)
    model = every_position(tiny_folder / LANGUAGE_XML, finish)
    last_position_only(model)
    last = logits(model)
    np.testing.assert_allclose(last, every[:, -1:], rtol=0, atol=1e-5)
    assert np.abs(last - every[:, -2:-1]).max() > 0.1


def test_the_head_itself_computes_one_position(tiny_folder: Path) -> None:
    model = every_position(tiny_folder / LANGUAGE_XML, soft_capped)
    last_position_only(model)
    (head,) = (op for op in model.get_ops() if op.get_friendly_name().endswith("lm_head/aten::linear/MatMul"))
    assert head.get_output_partial_shape(0)[1].get_max_length() == 1


def test_an_export_that_slices_itself_is_left_alone(tiny_folder: Path) -> None:
    model = ov.Core().read_model(tiny_folder / LANGUAGE_XML)
    before = [op.get_friendly_name() for op in model.get_ordered_ops()]
    last_position_only(model)
    assert [op.get_friendly_name() for op in model.get_ordered_ops()] == before


def test_logits_that_come_of_something_else_are_refused(tiny_folder: Path) -> None:
    axis = opset13.constant(1, dtype=np.int64)
    model = every_position(
        tiny_folder / LANGUAGE_XML, lambda logits: opset13.cum_sum(logits, axis, exclusive=False)
    )
    with pytest.raises(ValueError, match="of every position, and come from CumSum"):
        last_position_only(model)


def test_a_runner_takes_a_model_of_all_logits(tiny_folder: Path, tmp_path: Path) -> None:
    ov.save_model(every_position(tiny_folder / LANGUAGE_XML), tmp_path / LANGUAGE_XML, compress_to_fp16=False)
    prompt = np.random.default_rng(1).normal(size=(POSITIONS, HIDDEN)).astype(np.float32)
    found = []
    for folder in (tiny_folder, tmp_path):
        runner = StatefulRunner.load(folder / LANGUAGE_XML, "CPU", EXACT)
        sequence = runner.begin(POSITIONS)
        found.append(runner.step([SequenceInput(sequence, prompt)]))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
