"""A model and an engine for tests of the code around them; they fulfil worker/protocols.py."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contract.failure import FailureCode, Refusal
from contract.job import Detail, Question
from worker.engine.inbox import EngineStoppedError
from worker.engine.request import FloatArray, Generation, Generations, IntArray, Request
from worker.lane import Lane
from worker.look import Look

IMAGE_TOKENS = 5
HIDDEN = 4
CONTEXT_TOKENS = 200
EOS = 2
RAISED: dict[str, type[BaseException]] = {
    error.__name__: error
    for error in (RuntimeError, MemoryError, SystemExit, KeyboardInterrupt, GeneratorExit, EngineStoppedError)
}


@dataclass(frozen=True)
class FakePrompt:
    token_ids: IntArray
    inputs_embeds: FloatArray
    image_tokens: int
    prefix_tokens: int
    prefix_key: bytes | None
    positions: IntArray | None = None


class FakeModel:
    """One token per character, its code point. Its answer to a question is the length of the prompt.

    The question "raise NAME" raises that exception, "refuse" is refused.
    """

    model_id = "fake"
    context_tokens = CONTEXT_TOKENS
    eos_token_ids = (EOS,)

    def __init__(self) -> None:
        self.encoded: list[tuple[int, int]] = []
        self.details: list[Detail] = []
        self.lanes: list[Lane] = []
        self.alone: list[bool] = []

    def features(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        look: Look,
        lane: Lane,
    ) -> tuple[int, ...]:
        assert content
        self.alone.append(look.alone)
        self.lanes.append(lane)
        self.details.append(look.detail)
        return self.encode_image(decode())

    def encode_image(self, image: Image.Image) -> tuple[int, ...]:
        size = (image.height, image.width)
        self.encoded.append(size)
        return size

    def joined(self, several: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(side for one in several for side in one)

    def prompt(self, question: Question, features: tuple[int, ...] | None) -> FakePrompt:
        images = 0 if features is None else len(features) // 2
        turns = question.turns(with_image=features is not None, images=images)
        text = " ".join(
            part if isinstance(part, str) else part.text
            for turn in turns
            for part in ([turn.content] if isinstance(turn.content, str) else turn.content)
            if isinstance(part, str) or part.type == "text"
        )
        if text.startswith("raise "):
            raise RAISED[text.removeprefix("raise ")]
        if text == "refuse":
            raise Refusal(FailureCode.QUESTION_REFUSED, "I would rather not.")
        image_tokens = images * IMAGE_TOKENS
        positions = len(text) + image_tokens
        return FakePrompt(
            np.ones(positions, dtype=np.int64),
            np.ones((positions, HIDDEN), dtype=np.float32),
            image_tokens,
            prefix_tokens=image_tokens,
            prefix_key=None if features is None else repr(features).encode(),
        )

    def choice_ids(
        self,
        question: Question,
        features: tuple[int, ...] | None,  # noqa: ARG002 - the protocol's
    ) -> tuple[tuple[int, ...], ...]:
        return tuple((*map(ord, choice), EOS) for choice in question.choices or ())

    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        return lambda token_ids: any(text in "".join(map(chr, token_ids)) for text in texts)

    def decode(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        text = f"{token_ids[0]} tokens"
        for one in stop:
            text = text.partition(one)[0]
        return text

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        return self.decode(token_ids, stop) if token_ids else ""


class FakeEngine:
    """Generates one request at a time, and none while the file `hold` exists. It prefers short choices.

    The file "held" beside it says that a request has begun and waits, for other processes to see. Requests
    with priority are not held. A request with `min_new_tokens` continues until it is asked to stop.
    """

    def __init__(self, hold: Path | None = None) -> None:
        self._hold = hold
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._priority_thread = ThreadPoolExecutor(max_workers=1)
        self.requests: list[Request] = []
        self.begun = threading.Event()

    def submit(self, request: Request) -> Future[Generations]:
        thread = self._priority_thread if request.has_priority else self._thread
        return thread.submit(self._generate, request)

    def _generate(self, request: Request) -> Generations:
        self.requests.append(request)
        self.begun.set()
        while not request.has_priority and self._hold is not None and self._hold.exists():
            self._hold.with_name("held").touch()
            time.sleep(0.01)
        if request.choices:
            return tuple(_scored(choice) for choice in request.choices)
        if request.on_tokens is not None:
            return self._told(request, request.on_tokens)
        return tuple(
            _scored((len(request.inputs_embeds) + number, EOS))
            for number in range(request.parameters.num_return_sequences)
        )

    def _told(self, request: Request, on_tokens: Callable[[Sequence[int]], None]) -> Generations:
        token_ids = [len(request.inputs_embeds), EOS]
        on_tokens(token_ids[:1])
        while request.parameters.min_new_tokens and request.stop_asked and not request.stop_asked():
            time.sleep(0.01)
        on_tokens(token_ids[1:])
        return (_scored(tuple(token_ids)),)

    def close(self) -> None:
        self._thread.shutdown()
        self._priority_thread.shutdown()


def _scored(token_ids: tuple[int, ...]) -> Generation:
    """As if each token had a log-probability of -0.75."""
    return Generation(token_ids, "stop", score=-0.75 * len(token_ids), mean_log_prob=-0.75)
