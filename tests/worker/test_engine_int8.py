"""int8 weights, default precision: batched answers equal single ones, except where the model is undecided.

There the last digits of the logits, which change with the shape of a batch, choose between two tokens. The
size of the change is measured. No answer may differ from that of its request alone where the two tokens are
further apart.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.job import GenerationParameters, Question
from model_prep.convert import convert
from model_prep.settings import LanguageSettings, PrepSettings
from tests.conftest import DEMO_MODEL
from tests.support.parity import QUESTIONS, TIMEOUT_S, noises, scenes
from tests.support.reference import Reference
from tests.support.runners import KV_CACHE_BYTES, merging, paged
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import FloatArray, Prefix, Request
from worker.engine.runner import Runner, SequenceId, SequenceInput
from worker.llava.model import LlavaModel

IMAGES = 70
NEW_TOKENS = {"tiny": 14, "demo": 40}
LIMITS = Limits(kv_bytes=KV_CACHE_BYTES, rows=16, step_tokens=1024)
RUNNERS: dict[str, Callable[[Path, Mapping[str, str]], Runner]] = {
    "stateful, merging": merging,
    "paged": paged,
}


class Recording:
    """A runner that remembers each logits row by a digest of all the embeddings before it."""

    def __init__(self, runner: Runner) -> None:
        self.shares_prefixes, self.mixes_steps = runner.shares_prefixes, runner.mixes_steps
        self.bytes_for, self.can_fork = runner.bytes_for, runner.can_fork
        self._runner = runner
        self._digests: dict[SequenceId, list[bytes]] = {}
        self.logits: dict[bytes, FloatArray] = {}

    def begin(self, max_positions: int) -> SequenceId:
        sequence = self._runner.begin(max_positions)
        self._digests[sequence] = []
        return sequence

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        fork = self._runner.fork(sequence, max_positions, positions)
        self._digests[fork] = self._digests[sequence][:positions]
        return fork

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        logits = self._runner.step(inputs)
        for one, own in zip(inputs, logits, strict=True):
            digests = self._digests[one.sequence]
            for embeds in one.inputs_embeds:
                digests.append(hashlib.sha256(b"".join(digests[-1:]) + embeds.tobytes()).digest())
            self.logits[digests[-1]] = own
        return logits

    def release(self, sequence: SequenceId) -> None:
        self._runner.release(sequence)
        del self._digests[sequence]


class Material:
    """A folder of int8 weights, read with default precision, and questions about many images."""

    def __init__(self, name: str, checkpoint: Path, folder: Path) -> None:
        int8 = PrepSettings(language=LanguageSettings(weight_format="int8"))
        convert(str(checkpoint), folder, int8, name=name)
        self.model = LlavaModel.load(folder, "CPU", {})
        images = scenes(IMAGES) if name == "demo" else noises(IMAGES, Reference(checkpoint))
        self.parameters = GenerationParameters(max_new_tokens=NEW_TOKENS[name])
        self.prompts = [
            self.model.prompt(Question(id="q", messages=question), features)
            for features in map(self.model.encode_image, images)
            for question in QUESTIONS
        ]

    def request(self, number: int, *, shares: bool) -> Request:
        prompt = self.prompts[number]
        assert prompt.prefix_key is not None
        return Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=self.model.eos_token_ids,
            parameters=self.parameters,
            prefix=Prefix(prompt.prefix_key, prompt.prefix_tokens) if shares else None,
        )


@pytest.fixture(scope="module", params=NEW_TOKENS)
def material(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Material:
    name: str = request.param
    checkpoint = DEMO_MODEL / "checkpoint" if name == "demo" else request.getfixturevalue("tiny_checkpoint")
    return Material(name, checkpoint, tmp_path_factory.mktemp("int8") / "folder")


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request: pytest.FixtureRequest, material: Material) -> Runner:
    return RUNNERS[request.param](material.model.language_xml, {})


@pytest.fixture(scope="module")
def alone(runner: Runner, material: Material) -> tuple[list[tuple[int, ...]], dict[bytes, FloatArray]]:
    """The answer of each request with none beside it, and the logits on the way."""
    recording = Recording(runner)
    engine = Engine(recording, material.model.embed, LIMITS)
    answers = [
        engine.submit(material.request(number, shares=False)).result(TIMEOUT_S)[0].token_ids
        for number in range(len(material.prompts))
    ]
    engine.close()
    return answers, recording.logits


@pytest.mark.parametrize("shares", [False, True], ids=["strangers", "shared prefixes"])
def test_answers_part_only_where_the_model_is_undecided(
    runner: Runner, material: Material, alone: Any, shares: bool, record_property: Any
) -> None:
    recording = Recording(runner)
    engine = Engine(recording, material.model.embed, LIMITS)
    order = (
        np.arange(len(material.prompts))
        if shares
        else np.random.default_rng(0).permutation(len(material.prompts))
    )
    futures = {number: engine.submit(material.request(number, shares=shares)) for number in order.tolist()}
    together = [futures[number].result(TIMEOUT_S)[0].token_ids for number in range(len(futures))]
    engine.close()

    answers, logits = alone
    parted = sum(one != other for one, other in zip(answers, together, strict=True))
    noise: list[float] = []
    """how much nearer the two best tokens came to each other, or less near, where the best stayed the best"""
    gaps: list[float] = []
    """how far apart the two tokens were for the request alone, where the answers parted"""
    for digest in logits.keys() & recording.logits.keys():
        one, other = logits[digest], recording.logits[digest]
        best, best_together = one.argmax(), other.argmax()
        if best == best_together:
            second = np.where(np.arange(len(one)) == best, -np.inf, one).argmax()
            noise.append(abs(float(one[best] - one[second] - other[best] + other[second])))
        else:
            gaps.append(float(one[best] - one[best_together]))
    found = (
        f"{parted} of {len(answers)} answers part, {gaps.count(0.0)} of them between equal logits, "
        f"at most {max(gaps, default=0):.3f} apart; of {len(noise)} steps of equal outcome half move them "
        f"by at most {np.median(noise):.3f}, 99 % by {np.quantile(noise, 0.99):.3f}, all by {max(noise):.3f}"
    )
    record_property("found", found)
    print(found)
    assert len(noise) > len(answers), "most steps are the same both times"
    assert len(gaps) == parted
    assert all(gap <= max(noise) for gap in gaps), found
