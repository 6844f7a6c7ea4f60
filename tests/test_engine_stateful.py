"""The stateful runner equals the torch runner on the same random checkpoint: rows, forks, whole generations.

Every test runs on both through the same protocol; numbers are compared with the torch runner's.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino
import pytest

from contract.model_folder import LANGUAGE_XML
from tests.torch_runner import TorchRunner
from worker.engine.loop import Engine
from worker.engine.request import FloatArray, Generation, IntArray, Request
from worker.engine.runner import Runner
from worker.engine.stateful import StatefulRunner

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
LOGITS_ATOL = 1e-4
HIDDEN = 64
VOCABULARY = 300


@pytest.fixture(scope="module")
def language_xml(tiny_folder: Path) -> Path:
    return tiny_folder / LANGUAGE_XML


@pytest.fixture(scope="module")
def loaded(language_xml: Path) -> StatefulRunner:
    return StatefulRunner.load(language_xml, "CPU", EXACT)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchRunner:
    return TorchRunner.load(tiny_checkpoint)


@pytest.fixture
def stateful(loaded: StatefulRunner) -> Iterator[StatefulRunner]:
    yield loaded
    loaded.release()


@pytest.fixture(params=["torch", "stateful"])
def runner(
    request: pytest.FixtureRequest, reference: TorchRunner, stateful: StatefulRunner
) -> Iterator[Runner]:
    chosen: Runner = reference if request.param == "torch" else stateful
    yield chosen
    chosen.release()


def prompts(rows: int, positions: int, seed: int = 0) -> IntArray:
    return np.random.default_rng(seed).integers(5, VOCABULARY, size=(rows, positions))


def fresh_logits(reference: TorchRunner, token_ids: IntArray) -> FloatArray:
    """Logits of the last position by one prefill of the whole rows, with no cache behind it."""
    reference.release()
    logits = reference.prefill(reference.embed(token_ids))
    reference.release()
    return logits


class Histories:
    """Feeds a runner and remembers each row's tokens, so that the rows can be computed afresh."""

    def __init__(self, runner: Runner, reference: TorchRunner, token_ids: IntArray) -> None:
        self.runner, self.reference, self.token_ids = runner, reference, token_ids
        self.logits = runner.prefill(reference.embed(token_ids))

    def decode(self, beam_idx: list[int], tokens: list[int]) -> None:
        new = np.array(tokens)[:, None]
        self.logits = self.runner.decode(self.reference.embed(new), np.array(beam_idx))
        self.token_ids = np.concatenate([self.token_ids[beam_idx], new], axis=1)

    def check(self) -> None:
        # The torch runner cannot be asked while it holds the rows; a second one on the same weights can.
        expected = fresh_logits(TorchRunner(self.reference.model), self.token_ids)
        assert self.logits.dtype == np.float32
        np.testing.assert_allclose(self.logits, expected, rtol=0, atol=LOGITS_ATOL)


def test_prefill(runner: Runner, reference: TorchRunner) -> None:
    Histories(runner, reference, prompts(1, 37)).check()


def test_prefill_of_several_rows(runner: Runner, reference: TorchRunner) -> None:
    Histories(runner, reference, prompts(3, 11)).check()


def test_rows_fork_reorder_shrink_and_regroup(runner: Runner, reference: TorchRunner) -> None:
    rows = Histories(runner, reference, prompts(1, 23))
    for beam_idx, tokens in (
        ([0, 0, 0, 0], [9, 21, 33, 45]),  # fork after the prefill
        ([2, 0, 3, 3], [51, 52, 53, 54]),  # reorder
        ([3, 1], [61, 62]),  # shrink
        ([1, 1, 0, 1], [71, 72, 73, 74]),  # grow again
        ([2], [81]),
    ):
        rows.decode(beam_idx, tokens)
        rows.check()


def test_release_forgets_the_rows(runner: Runner, reference: TorchRunner) -> None:
    first = Histories(runner, reference, prompts(1, 19, seed=1))
    first.decode([0, 0], [7, 8])
    runner.release()
    second = Histories(runner, reference, prompts(1, 5, seed=2))
    second.check()
    second.decode([0, 0, 0], [7, 8, 9])
    second.check()


def test_logits_belong_to_the_caller(runner: Runner, reference: TorchRunner) -> None:
    rows = Histories(runner, reference, prompts(1, 6))
    kept = rows.logits
    before = kept.copy()
    rows.decode([0], [12])
    np.testing.assert_array_equal(kept, before)
    assert kept.flags.writeable


def test_the_inputs_are_left_alone(runner: Runner, reference: TorchRunner) -> None:
    embeds = reference.embed(prompts(1, 6))
    embeds.flags.writeable = False
    beam_idx = np.zeros(2, np.int64)
    beam_idx.flags.writeable = False
    runner.prefill(embeds)
    runner.decode(np.concatenate([embeds[:, :1]] * 2), beam_idx)


def test_misuse_of_rows_is_caught(stateful: StatefulRunner, reference: TorchRunner) -> None:
    embeds = reference.embed(prompts(1, 4))
    one = embeds[:, :1]
    with pytest.raises(AssertionError, match="beam_idx points"):
        stateful.decode(one, np.array([0]))
    stateful.prefill(embeds)
    with pytest.raises(AssertionError, match="not released"):
        stateful.prefill(embeds)
    with pytest.raises(AssertionError, match="beam_idx points"):
        stateful.decode(one, np.array([1]))
    with pytest.raises(AssertionError, match="one beam_idx a row"):
        stateful.decode(one, np.array([0, 0]))


@pytest.mark.parametrize("num_beams", [1, 4])
def test_whole_generations_equal(stateful: StatefulRunner, reference: TorchRunner, num_beams: int) -> None:
    reference.release()
    found, expected = (generate(runner, reference, num_beams) for runner in (stateful, reference))
    assert [generation.token_ids for generation in found] == [generation.token_ids for generation in expected]
    scores = [generation.score for generation in expected]
    assert [generation.score for generation in found] == pytest.approx(scores, abs=1e-4)
    assert len({generation.token_ids for generation in found}) == len(found), (
        "different prompts, different answers"
    )


def generate(runner: Runner, reference: TorchRunner, num_beams: int) -> list[Generation]:
    """Twelve prompts of different lengths through an engine on `runner`."""
    engine = Engine(runner, reference.embed)
    requests = [
        Request(
            inputs_embeds=reference.embed(prompts(1, 5 + 7 * seed, seed))[0],
            max_new_tokens=24,
            num_beams=num_beams,
            eos_token_ids=(2, 40, 41, 42, 43, 44, 45, 46, 47),
        )
        for seed in range(12)
    ]
    generations = [future.result(timeout=300) for future in [engine.submit(request) for request in requests]]
    engine.close()
    return generations


def test_what_openvino_refuses_is_refused_in_one_sentence(language_xml: Path, tmp_path: Path) -> None:
    refusals: list[tuple[Path, str, dict[str, str], str]] = [
        (language_xml, "CPU", {"NO_SUCH": "1"}, "Unsupported property NO_SUCH by CPU plugin"),
        (
            language_xml,
            "CPU",
            {"KV_CACHE_PRECISION": "f33"},
            "Wrong value f33 for property key KV_CACHE_PRECISION",
        ),
        (language_xml, "NO_SUCH", {}, 'Device with "NO_SUCH" name is not registered'),
        (tmp_path / "missing.xml", "CPU", {}, "missing.xml cannot be read: .*missing.xml"),
    ]
    for path, device, properties, sentence in refusals:
        with pytest.raises(ValueError, match=sentence) as refused:
            StatefulRunner.load(path, device, properties)
        assert "\n" not in str(refused.value)


def test_a_model_without_state_is_refused(tmp_path: Path) -> None:
    ops = openvino.opset13
    names = {
        "inputs_embeds": np.float32,
        "attention_mask": np.int64,
        "position_ids": np.int64,
        "beam_idx": np.int32,
    }
    ports = {name: ops.parameter([-1], dtype, name=name) for name, dtype in names.items()}
    for name, port in ports.items():
        port.output(0).get_tensor().set_names({name})
    result = ops.result(ops.relu(ports["inputs_embeds"]))
    result.output(0).get_tensor().set_names({"logits"})
    openvino.save_model(openvino.Model([result], list(ports.values())), tmp_path / "stateless.xml")
    with pytest.raises(ValueError, match="keeps no state"):
        StatefulRunner.load(tmp_path / "stateless.xml", "CPU", {})
    openvino.save_model(openvino.Model([result], [ports["inputs_embeds"]]), tmp_path / "portless.xml")
    with pytest.raises(ValueError, match="has inputs"):
        StatefulRunner.load(tmp_path / "portless.xml", "CPU", {})
