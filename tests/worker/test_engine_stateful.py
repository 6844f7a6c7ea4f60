"""What only the stateful runner does: rows share a state, cohorts merge, and some models are refused.

What every runner does is in tests/worker/test_runners.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from contract.model_folder import LANGUAGE_XML
from tests.support.runners import EXACT, HEAVY_BYTES, compiled_for_cohorts
from tests.support.torch_runner import TorchRunner
from worker.engine.cohort import CacheSize, Cohort, Row, merge, pays_to_merge
from worker.engine.request import FloatArray
from worker.engine.runner import SequenceId, SequenceInput
from worker.engine.stateful import PADDING, StatefulRunner

LOGITS_ATOL = 1e-4
MAX_POSITIONS = 100
HEAVY = CacheSize(position_bytes=1, moved_bytes=1, weight_bytes=HEAVY_BYTES)
WEIGHTLESS = CacheSize(position_bytes=1, moved_bytes=1, weight_bytes=0)


@pytest.fixture(scope="module")
def language_xml(tiny_folder: Path) -> Path:
    return tiny_folder / LANGUAGE_XML


@pytest.fixture(scope="module")
def compiled(language_xml: Path) -> ov.CompiledModel:
    return compiled_for_cohorts(language_xml)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchRunner:
    return TorchRunner.load(tiny_checkpoint)


class Rows:
    """Rows of any cohorts with their tokens, so that their logits can be computed from scratch."""

    def __init__(self, compiled: ov.CompiledModel, reference: TorchRunner) -> None:
        self.compiled, self.reference = compiled, reference
        self.tokens: dict[Row, list[int]] = {}

    def begin(self, tokens: Sequence[int], max_positions: int = MAX_POSITIONS) -> Row:
        row = Cohort(self.compiled.create_infer_request()).begin(max_positions)
        self.tokens[row] = []
        self.append({row: tokens})
        return row

    def fork(self, row: Row, positions: int | None = None) -> Row:
        fork = row.fork(MAX_POSITIONS, positions)
        self.tokens[fork] = self.tokens[row][:positions]
        return fork

    def forks(self, row: Row, count: int) -> list[Row]:
        """`row` and forks of it, `count` in all, each gone on with a token of its own."""
        rows = [row, *(self.fork(row) for _ in range(count - 1))]
        self.append({row: [20 + place] for place, row in enumerate(rows)})
        return rows

    def append(self, appended: Mapping[Row, Sequence[int]]) -> None:
        """To rows of one cohort; their logits must be those of a fresh forward over all they hold."""
        (cohort,) = {row.cohort for row in appended}
        logits = cohort.append({row: self.embed(tokens) for row, tokens in appended.items()})
        for row, tokens in appended.items():
            self.tokens[row] += tokens
            assert row.length == len(self.tokens[row])
        expected = np.stack([self.fresh_logits(self.tokens[row]) for row in appended])
        np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGITS_ATOL)

    def embed(self, tokens: Sequence[int]) -> FloatArray:
        embeds: FloatArray = self.reference.embed(np.array([tokens]))[0]
        return embeds

    def fresh_logits(self, tokens: Sequence[int]) -> FloatArray:
        sequence = self.reference.begin(len(tokens))
        logits: FloatArray = self.reference.step([SequenceInput(sequence, self.embed(tokens))])[0]
        self.reference.release(sequence)
        return logits


@pytest.fixture
def rows(compiled: ov.CompiledModel, reference: TorchRunner) -> Rows:
    return Rows(compiled, reference)


def prompt(positions: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, 300, size=positions)]


# Rows of one state


def test_rows_that_take_no_part_are_padded(rows: Rows) -> None:
    first, second, third = rows.forks(rows.begin(prompt(20)), 3)
    rows.append({second: prompt(7, seed=1)})
    assert {row.cohort.past for row in (first, second, third)} == {28}
    rows.append({first: [31], third: [32]})
    rows.append({third: [33], second: [34], first: [35]})


def test_suffixes_of_unequal_lengths_go_together(rows: Rows) -> None:
    first = rows.begin(prompt(30))
    second, third = rows.fork(first), rows.fork(first, 12)
    rows.append({second: prompt(9, seed=2), first: [41], third: prompt(4, seed=3)})
    rows.append({first: [42], second: [43], third: [44]})


def test_a_fork_that_is_cut_does_not_see_what_came_after(rows: Rows) -> None:
    first, second = rows.forks(rows.begin(prompt(20)), 2)
    rows.append({first: prompt(6, seed=1)})
    # The second row now has padding between its positions.
    rows.append({first: [51], second: [52]})
    cut = rows.fork(second, 21)
    assert cut.length == 21
    rows.append({cut: [53, 54], second: [55]})
    rows.append({cut: [56], second: [57], first: [58]})


def test_dead_rows_stay_while_dropping_them_costs_more(rows: Rows) -> None:
    living = rows.forks(rows.begin(prompt(20), max_positions=MAX_POSITIONS), 4)
    cohort = living[0].cohort
    for row in living:
        row.max_positions = 25
    cohort.rows.remove(living.pop(1))
    rows.append({row: [61 + place] for place, row in enumerate(living)})
    assert (cohort.batch, len(cohort.rows)) == (4, 3)
    for row in living:
        row.max_positions = MAX_POSITIONS
    rows.append({row: [65 + place] for place, row in enumerate(living)})
    assert (cohort.batch, len(cohort.rows)) == (3, 3)
    cohort.rows.remove(living.pop(0))
    rows.append({row: [68 + place] for place, row in enumerate(living)})
    assert cohort.batch == 2


def test_a_fork_takes_the_place_of_a_dead_row(rows: Rows) -> None:
    living = rows.forks(rows.begin(prompt(20)), 3)
    cohort = living[0].cohort
    cohort.rows.remove(living.pop(0))
    living.append(rows.fork(living[1]))
    rows.append({row: [71 + place] for place, row in enumerate(living)})
    assert cohort.batch == 3


# Merging


def test_merged_cohorts_go_on_as_they_were(rows: Rows) -> None:
    long, short = rows.forks(rows.begin(prompt(40)), 2), rows.forks(rows.begin(prompt(9, seed=1)), 3)
    together = merge([long[0].cohort, short[0].cohort], rows.compiled.create_infer_request())
    assert (len(together.rows), together.past) == (5, 41)
    assert {row.cohort for row in (*long, *short)} == {together}
    everyone = [short[2], long[1], short[0], long[0], short[1]]
    for token in (10, 110):
        rows.append({row: [token + place] for place, row in enumerate(everyone)})
    rows.append({short[1]: prompt(5, seed=2), long[0]: [81]})


def test_merged_after_beams_changed_places_and_rows_died(rows: Rows) -> None:
    beams = rows.forks(rows.begin(prompt(25)), 4)
    cohort = beams[0].cohort
    children = [rows.fork(beams[2]), rows.fork(beams[0]), rows.fork(beams[2])]
    for beam in (beams[0], beams[1], beams[2]):
        cohort.rows.remove(beam)
    other = rows.forks(rows.begin(prompt(31, seed=1)), 2)
    # Their states still hold the rows of the last step: four, of which one is asked for twice and one never.
    together = merge([other[0].cohort, cohort], rows.compiled.create_infer_request())
    assert len(together.rows) == together.batch == 6
    rows.append({row: [90 + place] for place, row in enumerate([*children, beams[3], *other])})


def test_a_fork_of_a_merged_row_can_be_cut(rows: Rows) -> None:
    short, long = rows.begin(prompt(10)), rows.begin(prompt(30, seed=1))
    merge([long.cohort, short.cohort], rows.compiled.create_infer_request())
    rows.append({short: [11], long: [12]})
    cut = rows.fork(short, 6)
    rows.append({cut: prompt(3, seed=2), long: [13], short: [14]})


def test_merging_pays_by_steps_weights_and_positions() -> None:
    def cohort(past: int, max_positions: int, count: int = 1) -> Cohort:
        made = Cohort(request=None)
        for _ in range(count):
            made.join(Row(made, max_positions, 0, np.ones(past, np.int64), past))
        made.past = past
        return made

    size = CacheSize(position_bytes=1, moved_bytes=100, weight_bytes=10_000)
    assert pays_to_merge([cohort(10, 50), cohort(10, 50)], size)
    assert not pays_to_merge([cohort(10, 15), cohort(10, 15)], size), "they end soon"
    assert not pays_to_merge([cohort(100, 140), cohort(100, 140)], size), "they are long"
    assert not pays_to_merge([cohort(10, 50, count=9) for _ in range(2)], size), "they are many"
    assert pays_to_merge([cohort(10, 50, count=3) for _ in range(6)], size), "each but one saves its steps"


class Counted:
    """A compiled model that counts its infer requests: one per cohort, begun or merged."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.compiled, self.requests = compiled, 0

    def create_infer_request(self) -> Any:
        self.requests += 1
        return self.compiled.create_infer_request()


class Merging:
    """A runner with prompts of given lengths, each begun in a cohort of its own."""

    def __init__(self, rows: Rows, lengths: Sequence[int], size: CacheSize = HEAVY, **options: bool) -> None:
        self.rows, self.counted = rows, Counted(rows.compiled)
        self.runner = StatefulRunner(self.counted, size, merges=options.get("merges", True))
        self.tokens: dict[SequenceId, list[int]] = {}
        for seed, length in enumerate(lengths):
            sequence = self.runner.begin(MAX_POSITIONS)
            self.tokens[sequence] = prompt(length, seed)
            self.runner.step([SequenceInput(sequence, rows.embed(self.tokens[sequence]))])
        self.begun = list(self.tokens)

    def step(self, *appended: Sequence[int]) -> int:
        """Append to the sequences, in their order → how many merges that took."""
        before = self.counted.requests
        pairs = list(zip(self.begun, appended, strict=False))
        logits = self.runner.step(
            [SequenceInput(sequence, self.rows.embed(tokens)) for sequence, tokens in pairs]
        )
        for (sequence, tokens), own in zip(pairs, logits, strict=True):
            self.tokens[sequence] += tokens
            expected = self.rows.fresh_logits(self.tokens[sequence])
            np.testing.assert_allclose(own, expected, rtol=0, atol=LOGITS_ATOL)
        return self.counted.requests - before


def test_cohorts_merge_once_when_they_decode_together(rows: Rows) -> None:
    merging = Merging(rows, (30, 34, 27))
    assert merging.step([5], [6], [7]) == 1
    assert merging.step([8], [9], [10]) == 0


def test_cohorts_do_not_merge_when_that_costs_more(rows: Rows) -> None:
    assert Merging(rows, (30, 34), WEIGHTLESS).step([5], [6]) == 0


def test_cohorts_do_not_merge_where_the_device_keeps_its_state_to_itself(rows: Rows) -> None:
    assert Merging(rows, (30, 34), merges=False).step([5], [6]) == 0


def test_cohorts_do_not_merge_in_a_step_that_appends_more_than_tokens(rows: Rows) -> None:
    merging = Merging(rows, (30, 34))
    assert merging.step([5], [6, 7]) == 0
    assert merging.step([8], [9]) == 1


def test_a_cohort_one_of_whose_rows_is_held_back_does_not_merge(rows: Rows) -> None:
    merging = Merging(rows, (30, 34))
    held = merging.runner.fork(merging.begun[0], MAX_POSITIONS)
    assert merging.step([5], [6]) == 0
    merging.runner.release(held)
    assert merging.step([7], [8]) == 1


def test_cohorts_of_very_unequal_lengths_do_not_merge(rows: Rows) -> None:
    merging = Merging(rows, (5, 70, 8, 73))
    assert merging.step([5], [6], [7], [8]) == 2, "the short ones together and the long ones"
    assert merging.step([9], [10], [11], [12]) == 0


def test_a_merged_cohort_takes_in_another(rows: Rows) -> None:
    merging = Merging(rows, (30, 34, 32))
    assert merging.step([5], [6]) == 1
    assert merging.step([7], [8], [9]) == 1
    assert merging.step([10], [11], [12]) == 0


# What it takes


@pytest.mark.parametrize(
    ("properties", "head_position_bytes"), [(EXACT, 16 * 4), ({"KV_CACHE_PRECISION": "u8"}, 16 + 8)]
)
def test_the_bytes_of_a_position(
    language_xml: Path, properties: dict[str, str], head_position_bytes: int
) -> None:
    runner = StatefulRunner.load(language_xml, "CPU", properties)
    layers, heads = 3, 2
    kept = 2 * layers * heads * head_position_bytes
    assert runner.bytes_for(100) == 2 * PADDING * 100 * kept, "growth doubles, neighbours pad"


def test_a_fork_is_refused_that_its_cohort_would_pad_beyond_its_room(rows: Rows) -> None:
    merging = Merging(rows, (60,))
    (source,) = merging.begun
    assert merging.runner.can_fork(source, MAX_POSITIONS, 60)
    assert merging.runner.can_fork(source, 61, 60), "all the padding that two have room for"
    assert not merging.runner.can_fork(source, 30, 20), "it would take as much as its source"
    assert not merging.runner.can_fork(source, 3 * MAX_POSITIONS, 1), "its source would grow with it"


# Refusals


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
    ops = ov.opset13
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
    ov.save_model(ov.Model([result], list(ports.values())), tmp_path / "stateless.xml")
    with pytest.raises(ValueError, match="keeps no state"):
        StatefulRunner.load(tmp_path / "stateless.xml", "CPU", {})
    ov.save_model(ov.Model([result], [ports["inputs_embeds"]]), tmp_path / "portless.xml")
    with pytest.raises(ValueError, match="has inputs"):
        StatefulRunner.load(tmp_path / "portless.xml", "CPU", {})
