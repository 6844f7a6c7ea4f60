"""What only the paged runner does: share and free blocks, change the model, and refuse."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import openvino
import pytest
from openvino import opset13

from contract.model_folder import LANGUAGE_XML
from tests.support.torch_runner import TorchRunner
from worker.engine.paged import AGREEMENT, TRIAL_BLOCKS, PagedRunner
from worker.engine.paged_graph import LOGIT_ROWS, STEP_PORTS, cache_ports, to_paged
from worker.engine.request import FloatArray
from worker.engine.runner import SequenceId, SequenceInput
from worker.engine.trial import Trial, distance

EXACT: Final = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
HIDDEN: Final = 64
LAYERS: Final = 3
BLOCK: Final = 32
BLOCK_BYTES: Final = LAYERS * 2 * 2 * BLOCK * 16 * 4
"""layers x (keys and values) x heads x positions x head size x float32"""
BLOCKS: Final = 40


@pytest.fixture(scope="module")
def language_xml(tiny_folder: Path) -> Path:
    return tiny_folder / LANGUAGE_XML


@pytest.fixture(scope="module")
def loaded(language_xml: Path) -> PagedRunner:
    return PagedRunner.load(language_xml, "CPU", EXACT, BLOCKS * BLOCK_BYTES + 1)


@pytest.fixture
def runner(loaded: PagedRunner) -> PagedRunner:
    assert loaded.pool.free == BLOCKS, "what an earlier test or the trial used was given back"
    return loaded


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchRunner:
    return TorchRunner.load(tiny_checkpoint)


def embeds(positions: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((positions, HIDDEN), np.float32)


def test_forks_take_blocks_only_for_what_they_do_not_share(runner: PagedRunner) -> None:
    first = runner.begin(200)
    runner.step([SequenceInput(first, embeds(70))])
    assert runner.pool.free == BLOCKS - 3
    forks = [runner.fork(first, 200) for _ in range(8)]
    assert runner.pool.free == BLOCKS - 3
    runner.step([SequenceInput(fork, embeds(1, seed)) for seed, fork in enumerate(forks)])
    assert runner.pool.free == BLOCKS - 3 - 8
    runner.release(first)
    assert runner.pool.free == BLOCKS - 2 - 8
    for fork in forks:
        runner.release(fork)
    assert runner.pool.free == BLOCKS


def test_the_whole_budget_can_be_filled(runner: PagedRunner) -> None:
    """By one prompt and forks that begin within a block and end within another, charged by bytes_for()."""
    prefix, rest = BLOCK - 1, BLOCK + 2
    budget = BLOCKS * BLOCK_BYTES - runner.bytes_for(prefix)
    rows = budget // runner.bytes_for(rest)
    first = runner.begin(prefix + rest)
    runner.step([SequenceInput(first, embeds(prefix))])
    forks = [runner.fork(first, prefix + rest) for _ in range(rows)]
    runner.release(first)
    for seed in range(rest):
        runner.step([SequenceInput(fork, embeds(1, seed)) for fork in forks])
    for fork in forks:
        runner.release(fork)
    assert runner.pool.free == BLOCKS


def test_what_a_failed_step_took_is_given_back(runner: PagedRunner) -> None:
    sequence = runner.begin(100)
    with pytest.raises(RuntimeError):
        runner.step([SequenceInput(sequence, np.zeros((40, HIDDEN + 1), np.float32))])
    runner.release(sequence)
    assert runner.pool.free == BLOCKS


def test_a_step_names_a_sequence_once(runner: PagedRunner) -> None:
    sequence = runner.begin(10)
    with pytest.raises(AssertionError, match="once"):
        runner.step([SequenceInput(sequence, embeds(1)), SequenceInput(sequence, embeds(1))])
    runner.release(sequence)


def capabilities() -> list[str]:
    found: list[str] = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


@pytest.mark.parametrize(
    "properties", [{}, {"KV_CACHE_PRECISION": "bf16"}, {"INFERENCE_PRECISION_HINT": "f32"}]
)
def test_low_precision_forks_as_it_computes_afresh(language_xml: Path, properties: dict[str, str]) -> None:
    """A cut fork writes 70 tokens, one at a time, beside its source: blocks of scaled 8 bits are opened,
    copied and closed on the way. A processor that does not compute in bf16 keeps nothing in it."""
    if "bf16" in properties.values() and "BF16" not in capabilities():
        with pytest.raises(ValueError, match="does not run with paged attention on device CPU"):
            PagedRunner.load(language_xml, "CPU", properties, 2**20)
        return
    runner = PagedRunner.load(language_xml, "CPU", properties, 2**20)
    first, afresh = runner.begin(200), runner.begin(200)
    prompt, tokens = embeds(60), embeds(70, seed=1)
    runner.step([SequenceInput(first, prompt)])
    fork = runner.fork(first, 200, 44)
    for token in tokens:
        logits = runner.step([SequenceInput(fork, token[None]), SequenceInput(first, token[None] + 1)])
    expected = runner.step([SequenceInput(afresh, np.concatenate([prompt[:44], tokens]))])
    assert distance(logits[:1], expected) < 0.05
    assert distance(logits[1:], expected) > 0.3, "another sequence is far away"


# The model it makes


def all_logits(language_xml: Path) -> openvino.Model:
    """The model as optimum exports it: with the logits of every position."""
    model = openvino.Core().read_model(language_xml)
    head = model.output("logits").get_node().input_value(0).get_node()
    slice_node = head.input_value(0).get_node()
    assert slice_node.get_type_name() == "Slice"
    head.input(0).replace_source_output(slice_node.input_value(0))
    model.validate_nodes_and_infer_types()
    assert model.output("logits").partial_shape[1].is_dynamic
    return model


def test_only_the_wanted_rows_go_through_the_last_feed_forward(language_xml: Path) -> None:
    for model in (openvino.Core().read_model(language_xml), all_logits(language_xml)):
        assert to_paged(model) == LAYERS
        assert {port.any_name for port in model.inputs} == {*STEP_PORTS, *cache_ports(LAYERS), LOGIT_ROWS}
        behind = {LOGIT_ROWS}
        products = 0
        for node in model.get_ordered_ops():
            if behind & {value.get_node().get_friendly_name() for value in node.input_values()}:
                behind.add(node.get_friendly_name())
                products += node.get_type_name() == "MatMul"
        assert products == 4, "gate, up, down, lm_head"


def test_an_export_with_all_logits_answers_the_same(
    language_xml: Path, runner: PagedRunner, tmp_path: Path
) -> None:
    openvino.save_model(all_logits(language_xml), tmp_path / LANGUAGE_XML, compress_to_fp16=False)
    foreign = PagedRunner.load(tmp_path / LANGUAGE_XML, "CPU", EXACT, 2**20)
    trial = Trial(HIDDEN)
    np.testing.assert_allclose(trial.in_parts(foreign), trial.in_parts(runner), rtol=0, atol=1e-5)


# The trial, and what is refused


class LongFork(TorchRunner):
    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:  # noqa: ARG002
        return super().fork(sequence, max_positions)


class OneWriter(TorchRunner):
    """A fork of a whole sequence is the sequence itself."""

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        fork = super().fork(sequence, max_positions, positions)
        if positions is None:
            self.caches[fork] = self.caches[sequence]
        return fork


class WrongOrder(TorchRunner):
    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        return super().step(inputs)[::-1]


@pytest.mark.parametrize("defect", [LongFork, OneWriter, WrongOrder])
def test_the_trial_tells_a_runner_with_a_defect(reference: TorchRunner, defect: type[TorchRunner]) -> None:
    trial = Trial(HIDDEN)
    expected = trial.in_one(reference)
    assert distance(trial.in_parts(reference), expected) < 1e-5
    assert distance(trial.in_parts(defect(reference.model)), expected) > AGREEMENT


def assert_refused(
    language_xml: Path, match: str, properties: dict[str, str] = EXACT, kv_cache_bytes: int = 2**20
) -> None:
    with pytest.raises(ValueError, match=match) as refused:
        PagedRunner.load(language_xml, "CPU", properties, kv_cache_bytes)
    assert "\n" not in str(refused.value)


def test_a_model_that_answers_otherwise_is_refused(language_xml: Path, tmp_path: Path) -> None:
    """One whose positions see those behind them too, which is lost with the mask."""
    model = openvino.Core().read_model(language_xml)
    for node in model.get_ops():
        if node.get_type_name() == "ScaledDotProductAttention":
            mask = node.input_value(3)
            node.input(3).replace_source_output(opset13.multiply(mask, np.float32(0)).output(0))
    openvino.save_model(model, tmp_path / LANGUAGE_XML, compress_to_fp16=False)
    assert_refused(tmp_path / LANGUAGE_XML, "gives other answers with paged attention on device CPU")


def test_a_budget_of_too_few_blocks_is_refused(language_xml: Path) -> None:
    match = f"needs {TRIAL_BLOCKS * BLOCK_BYTES} at least"
    assert_refused(language_xml, match, kv_cache_bytes=TRIAL_BLOCKS * BLOCK_BYTES - 1)
    PagedRunner.load(language_xml, "CPU", EXACT, TRIAL_BLOCKS * BLOCK_BYTES)


def test_another_release_of_openvino_is_refused(language_xml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "get_version", lambda: "2026.40.0-1-releases")
    assert_refused(language_xml, "needs OpenVINO 2026.4, .* this is 2026.40.0")


def test_a_model_without_attention_is_refused() -> None:
    hidden = opset13.parameter([-1, -1, HIDDEN], np.float32, name="inputs_embeds")
    hidden.output(0).get_tensor().set_names({"inputs_embeds"})
    kept = opset13.read_value(hidden, "kept")
    result = opset13.result(opset13.add(kept, hidden))
    result.output(0).get_tensor().set_names({"logits"})
    model = openvino.Model([result], [opset13.assign(kept, "kept")], [hidden])
    with pytest.raises(ValueError, match=r"has no form with paged attention: .*ScaledDotProductAttention"):
        to_paged(model)


def test_inputs_that_a_step_does_not_give_are_refused(language_xml: Path) -> None:
    model = openvino.Core().read_model(language_xml)
    types = opset13.parameter([-1], np.int32)
    types.output(0).get_tensor().set_names({"token_type_ids"})
    model.add_parameters([types])
    with pytest.raises(ValueError, match=r"should not have the inputs \['token_type_ids'\]"):
        to_paged(model)
