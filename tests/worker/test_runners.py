"""However a runner keeps its sequences, their logits equal those of one forward pass from scratch.

Knows no runner's inside: each test uses the protocol, on every runner in RUNNERS.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from contract.model_folder import LANGUAGE_XML
from tests.support.runners import RUNNERS
from tests.support.torch_runner import TorchRunner
from worker.engine.request import FloatArray
from worker.engine.runner import Runner, SequenceId, SequenceInput

LOGITS_ATOL: Final = 1e-4
VOCABULARY: Final = 300
MAX_POSITIONS: Final = 160


@pytest.fixture(scope="module", params=RUNNERS)
def loaded(request: pytest.FixtureRequest, tiny_folder: Path) -> Runner:
    return RUNNERS[request.param](tiny_folder / LANGUAGE_XML)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchRunner:
    return TorchRunner.load(tiny_checkpoint)


class Sequences:
    """Drives a runner and remembers each sequence's tokens, to compute its logits from scratch."""

    def __init__(self, runner: Runner, reference: TorchRunner) -> None:
        self.runner, self.reference = runner, reference
        self.tokens: dict[SequenceId, list[int]] = {}

    def begin(self) -> SequenceId:
        sequence = self.runner.begin(MAX_POSITIONS)
        self.tokens[sequence] = []
        return sequence

    def fork(self, sequence: SequenceId, positions: int | None = None) -> SequenceId:
        """Or, where the runner would rather not, a sequence that begins with the same tokens."""
        tokens = self.tokens[sequence][:positions]
        if not self.runner.can_fork(sequence, MAX_POSITIONS, len(tokens)):
            begun = self.begin()
            self.step({begun: tokens})
            return begun
        fork = self.runner.fork(sequence, MAX_POSITIONS, positions)
        self.tokens[fork] = tokens
        return fork

    def release(self, *sequences: SequenceId) -> None:
        for sequence in sequences:
            del self.tokens[sequence]
            self.runner.release(sequence)

    def step(self, appended: Mapping[SequenceId, Sequence[int]]) -> None:
        """Append token ids to sequences in one step and hold the logits to a fresh forward of each."""
        pieces = [SequenceInput(sequence, self.embed(tokens)) for sequence, tokens in appended.items()]
        logits = self.runner.step(pieces)
        for sequence, tokens in appended.items():
            self.tokens[sequence] += tokens
        assert logits.dtype == np.float32
        expected = np.stack([self.fresh_logits(self.tokens[sequence]) for sequence in appended])
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
def sequences(loaded: Runner, reference: TorchRunner) -> Iterator[Sequences]:
    driven = Sequences(loaded, reference)
    yield driven
    driven.release(*list(driven.tokens))


def prompt(positions: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(5, VOCABULARY, size=positions)]


@pytest.mark.parametrize("positions", [1, 2, 15, 16, 17, 31, 32, 33, 64, 75])
def test_a_prompt_and_tokens_behind_it(sequences: Sequences, positions: int) -> None:
    sequence = sequences.begin()
    sequences.step({sequence: prompt(positions)})
    for token in (7, 8, 9):
        sequences.step({sequence: [token]})


def test_prompts_of_unequal_lengths_in_one_step(sequences: Sequences) -> None:
    sequences.step({sequences.begin(): prompt(length, length) for length in (40, 3, 32, 1, 66)})
    sequences.step({sequence: [9 + place] for place, sequence in enumerate(sequences.tokens)})


def test_forks_of_a_prompt_go_on_apart(sequences: Sequences) -> None:
    first = sequences.begin()
    sequences.step({first: prompt(43)})
    forks = [sequences.fork(first) for _ in range(4)]
    for token in range(10, 18):
        sequences.step({fork: [token + 20 * place] for place, fork in enumerate(forks)})
    sequences.step({first: [200]})


def test_suffixes_behind_a_shared_prefix(sequences: Sequences) -> None:
    image = sequences.begin()
    sequences.step({image: prompt(50)})
    questions = {sequences.fork(image): prompt(length, seed=length) for length in (5, 17, 1, 30)}
    sequences.release(image)
    sequences.step(questions)
    sequences.step({question: [11 + place] for place, question in enumerate(questions)})


@pytest.mark.parametrize("kept", [1, 20, 31, 32, 33, 47, 63, 64, 69, 70])
def test_a_truncated_fork(sequences: Sequences, kept: int) -> None:
    first = sequences.begin()
    sequences.step({first: prompt(70)})
    fork = sequences.fork(first, kept)
    sequences.step({fork: [21], first: [22]})
    sequences.step({first: [23], fork: prompt(6, seed=6)})
    sequences.release(first)
    sequences.step({fork: [24]})


def test_a_fork_that_is_cut_where_it_was_forked_before(sequences: Sequences) -> None:
    """Three that end in one block at different positions, and write there in turn."""
    first = sequences.begin()
    sequences.step({first: prompt(60)})
    second = sequences.fork(first, 50)
    third = sequences.fork(second, 40)
    for token in (31, 32, 33):
        for sequence in (third, second, first):
            sequences.step({sequence: [token]})


def test_beams_that_fork_and_end(sequences: Sequences) -> None:
    beams = [sequences.begin()]
    sequences.step({beams[0]: prompt(23)})
    for parents in ([0, 0, 0, 0], [2, 0, 3, 3], [3, 1, 1, 1], [0, 1, 2, 3], [1, 1, 2, 2]):
        old, beams = beams, [sequences.fork(beams[parent]) for parent in parents]
        sequences.release(*old)
        sequences.step({beam: [40 + place] for place, beam in enumerate(beams)})


def test_prompts_suffixes_and_tokens_in_one_step(sequences: Sequences) -> None:
    first, second = sequences.begin(), sequences.begin()
    sequences.step({first: prompt(37), second: prompt(12, seed=1)})
    fork, cut = sequences.fork(first), sequences.fork(first, 33)
    sequences.step(
        {
            first: [9],
            sequences.begin(): prompt(45, seed=2),
            fork: prompt(8, seed=3),
            second: [10],
            cut: prompt(2, seed=4),
            sequences.begin(): [11],
        }
    )


@pytest.mark.parametrize("seed", range(3))
def test_random_sequences(sequences: Sequences, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(120):
        live = list(sequences.tokens)
        if len(live) < 2 or (len(live) < 8 and choose.random() < 0.3):
            begun = [sequence for sequence, tokens in sequences.tokens.items() if tokens]
            if begun and choose.random() < 0.7:
                source = choose.choice(begun)
                length = len(sequences.tokens[source])
                live.append(sequences.fork(source, choose.choice([None, choose.randint(1, length)])))
            else:
                live.append(sequences.begin())
        appended: dict[SequenceId, Sequence[int]] = {}
        for sequence in choose.sample(live, choose.randint(1, len(live))):
            new = choose.choice([1, 1, 1, choose.randint(2, 40)])
            if len(sequences.tokens[sequence]) + new <= MAX_POSITIONS:
                appended[sequence] = [choose.randrange(5, VOCABULARY) for _ in range(new)]
            else:
                sequences.release(sequence)
        if appended:
            sequences.step(appended)
        if choose.random() < 0.1:
            sequences.release(choose.choice(list(sequences.tokens)))


def test_after_a_failed_step_the_others_are_as_they_were(sequences: Sequences) -> None:
    first = sequences.begin()
    sequences.step({first: prompt(20)})
    failed, bystander = sequences.fork(first), sequences.fork(first)
    sequences.step({failed: [7]})
    too_wide = np.zeros((1, sequences.embed([1]).shape[1] + 1), np.float32)
    with pytest.raises((RuntimeError, ValueError)):
        sequences.runner.step([SequenceInput(failed, too_wide)])
    sequences.release(failed)
    sequences.step({bystander: [8], first: [9]})


def test_logits_belong_to_the_caller(sequences: Sequences) -> None:
    sequence = sequences.runner.begin(MAX_POSITIONS)
    kept = sequences.runner.step([SequenceInput(sequence, sequences.embed(prompt(6)))])
    before = kept.copy()
    sequences.runner.step([SequenceInput(sequence, sequences.embed([12]))])
    sequences.runner.release(sequence)
    np.testing.assert_array_equal(kept, before)
    assert kept.flags.writeable


def test_the_pieces_are_left_alone(sequences: Sequences) -> None:
    """Also when they are a view of the caller's, as a suffix of a prompt is."""
    embeds = sequences.embed(prompt(40))
    before = embeds.copy()
    embeds.flags.writeable = False
    sequence = sequences.runner.begin(MAX_POSITIONS)
    for part in (embeds[:33], embeds[33:], embeds[::-1][:2]):
        sequences.runner.step([SequenceInput(sequence, part)])
    sequences.runner.release(sequence)
    np.testing.assert_array_equal(embeds, before)
