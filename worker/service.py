"""One job from top to bottom: fetch, decode, encode, prompt, generate; knows no broker and no store."""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from PIL import Image

from contract.answer import Answer, Flag, JobResult, QuestionResult
from contract.failure import Failure, FailureCode, Refusal
from contract.job import Detail, GenerationParameters, Job, Question
from worker.delivery.requeue import Cancelled, Requeue
from worker.engine.inbox import EngineStoppedError
from worker.engine.request import FloatArray, Generations, IntArray, Prefix, Request
from worker.images.jpeg_scans import lacks_end
from worker.interactive_priority import RightOfWay
from worker.outcome import chosen_answer, free_answer

log = logging.getLogger(__name__)

DRAIN_POLL_S: Final = 0.2
DRAIN_S: Final = 60.0
WORKER: Final = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
"""Host and process id, and a mark, as both are the same again when a container starts anew."""
FeaturesT = TypeVar("FeaturesT")


class Prompt(Protocol):
    """What the model makes of a question and its image: one array of embeddings."""

    @property
    def token_ids(self) -> IntArray:
        """(position,) int64, image tokens in their full number."""
        ...

    @property
    def inputs_embeds(self) -> FloatArray:
        """(position, hidden) float32."""
        ...

    @property
    def image_tokens(self) -> int: ...
    @property
    def prefix_tokens(self) -> int:
        """So many positions other questions about the image begin with too."""
        ...

    @property
    def prefix_key(self) -> bytes | None:
        """Equal for equal beginnings; None for a prompt that shares none."""
        ...

    @property
    def positions(self) -> IntArray | None:
        """(position,) int64, where they are not counted from 0."""
        ...


class Model(Protocol[FeaturesT]):
    """What the service asks of worker.llava's model; every method may raise Refusal and is thread-safe."""

    @property
    def model_id(self) -> str: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    def features(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        detail: Detail,
        urgent: bool,
        *,
        alone: bool = True,
    ) -> FeaturesT:
        """Of the image file that holds `content`; kept ones, or `decode` is called.

        An image that is not `alone` is one of several in a question.
        """
        ...

    def together(self, several: Sequence[FeaturesT]) -> FeaturesT:
        """Of images in one question, in their order."""
        ...

    def encode_image(self, image: Image.Image) -> FeaturesT: ...
    def prompt(self, question: Question, features: FeaturesT | None) -> Prompt: ...
    def choice_ids(self, question: Question, features: FeaturesT | None) -> tuple[tuple[int, ...], ...]: ...
    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]: ...
    def decode(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """The text before the first of the texts `stop`."""
        ...

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """What decode() begins with for these tokens, whichever follow."""
        ...


class Engine(Protocol):
    """What the service asks of worker.engine's loop."""

    def submit(self, request: Request) -> Future[Generations]: ...
    def close(self) -> None: ...


Fetch = Callable[[Job], bytes]
"""The image file of a job that has one: worker.images.fetch's ImageFetch. Raises Refusal or Requeue."""


class Decode(Protocol):
    """What makes a picture of an image file: worker.images.decoder's Decoder."""

    def __call__(self, content: bytes, *, isolated: bool) -> Image.Image:
        """RGB and upright; `isolated` from this process, which the image may end. Raises Refusal."""
        ...


class Stream(Protocol):
    """One answer on its way to somebody who reads along."""

    def take(self, token_ids: Sequence[int]) -> None:
        """The next tokens; called in the engine's thread, returns at once."""
        ...

    def stop_asked(self) -> bool: ...
    def end(self, text: str | None) -> None:
        """The whole text, of which the rest is published, or None if there is no answer."""
        ...

    def leave(self) -> None:
        """Publish no more: another worker goes on."""
        ...


class Streams(Protocol):
    """Where answers are read along: worker.delivery.streaming's TokenStreams."""

    def open(self, run: str, index: int, decode_so_far: Callable[[Sequence[int]], str]) -> Stream: ...


@dataclass(frozen=True)
class Asked:
    """How a job's questions are to be answered. `deadline` is in monotonic seconds."""

    parameters: GenerationParameters
    deadline: float | None = None
    urgent: bool = False
    isolated: bool = False
    stream: Stream | None = None


class Started:
    """A question on its way: its prompt's length and the generations it waits for."""

    def __init__(
        self, question: Question, prompt: Prompt, generations: Future[Generations], flags: tuple[Flag, ...]
    ) -> None:
        """`flags` are the image's."""
        self.question = question
        self.flags = flags
        self.prompt_tokens = len(prompt.token_ids)
        self.generations = generations


class Service(Generic[FeaturesT]):
    """Answers jobs from many threads at once with one model and one engine."""

    def __init__(
        self,
        model: Model[FeaturesT],
        engine: Engine,
        fetch: Fetch,
        decode: Decode,
        model_id: str | None = None,
        streams: Streams | None = None,
        drain_s: float = DRAIN_S,
        way: RightOfWay | None = None,
    ) -> None:
        """Answers name `model_id`, the model's own if it is None. Without `streams` no job has one.

        While draining, what is generated already has `drain_s` to its end. An urgent job claims `way` from
        its image's content to the engine; others give it between one piece of their work and the next.
        """
        self._model = model
        self.model_id = model.model_id if model_id is None else model_id
        self._engine = engine
        self._fetch = fetch
        self._decode = decode
        self._streams = streams
        self._drain_s = drain_s
        self._way = way or RightOfWay()
        self._drained_at: float | None = None
        """Monotonic seconds at which what still runs is given back; None while not draining."""

    def answer(
        self,
        job: Job,
        *,
        urgent: bool = False,
        isolated: bool = False,
        wanted: Callable[[], bool] | None = None,
    ) -> JobResult:
        """An outcome for each question; an urgent job goes before others at the device.

        The image of an isolated job, which may be what ended a worker, is decoded outside this process.
        `wanted` is asked again and again while it is generated. Raises Cancelled once it says no, Requeue
        while draining or when an image's store is away, EngineStoppedError when the engine is no more; all
        else is a bug.
        """
        if self._drained_at is not None:
            raise Requeue
        begun = time.monotonic()
        deadline = None if job.deadline is None else begun + job.deadline - time.time()
        with self._followed(job) as stream:
            asked = Asked(job.parameters, deadline, urgent, isolated, stream)
            started = self._begin(job, asked)
            self._wait([s.generations for s in started if isinstance(s, Started)], wanted)
            self._give_way(asked)
            outcomes = [self._outcome(one, job) for one in started]
            if stream is not None:
                [outcome] = outcomes
                stream.end(outcome.text if isinstance(outcome, Answer) else None)
        return JobResult(
            run=job.run,
            index=job.index,
            worker=WORKER,
            model=self.model_id,
            seconds=time.monotonic() - begun,
            results=tuple(
                QuestionResult(question=question.id, outcome=outcome)
                for question, outcome in zip(job.questions, outcomes, strict=True)
            ),
        )

    def drain(self) -> None:
        """Give back every job of which nothing has been generated yet, from now on, and later the rest.

        Only sets a field, so that a signal handler may call it.
        """
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._drain_s

    def close(self) -> None:
        """End the engine; no job may be under way."""
        self._engine.close()

    def warm_up(self) -> None:
        """Answer one question about a grey image, so that the first job finds everything compiled."""
        features = self._model.encode_image(Image.new("RGB", (64, 48), (128, 128, 128)))
        question = Question(id="warm-up", messages="What is this?")
        started = self._start(question, features, Asked(GenerationParameters(max_new_tokens=2)))
        if isinstance(started, Failure):
            raise RuntimeError(f"the model refuses the warm-up question: {started.message}")
        started.generations.result()

    @contextmanager
    def _followed(self, job: Job) -> Iterator[Stream | None]:
        """The stream of a job that wants one; it ends whatever happens, unless another worker goes on."""
        if not job.stream or self._streams is None:
            yield None
            return
        decode_so_far = partial(self._model.decode_so_far, stop=job.parameters.stop)
        stream = self._streams.open(job.run, job.index, decode_so_far)
        try:
            yield stream
        except (Requeue, EngineStoppedError):
            stream.leave()
            raise
        except BaseException:
            stream.end(None)
            raise

    def _begin(self, job: Job, asked: Asked) -> list[Started | Failure]:
        """Each question on its way, or why it is not."""
        refusal = self._refusal(job)
        if refusal is not None:
            return [refusal] * len(job.questions)
        images = self._images(job)
        found: list[FeaturesT] = []
        failure: Failure | None = None
        flags: tuple[Flag, ...] = ()
        with ExitStack() as claim:
            if not images:
                self._claim(claim, asked)
            for number, one in enumerate(images, start=1):
                claim.close()  # nobody gives way to what is being fetched
                content = self._content(one, asked)
                if isinstance(content, bytes) and lacks_end(content):
                    flags = ("incomplete_image",)
                self._claim(claim, asked)
                features = self._picture(content, job.detail, asked, alone=len(images) == 1)
                if isinstance(features, Failure):
                    failure = _of_image(features, number, len(images))
                    break
                found.append(features)
            picture = failure or (self._model.together(found) if found else None)
            return [self._start(question, picture, asked, flags) for question in job.questions]

    def _claim(self, claim: ExitStack, asked: Asked) -> None:
        if asked.urgent:
            claim.enter_context(self._way.claimed())

    def _give_way(self, asked: Asked) -> None:
        if not asked.urgent:
            self._way.give()

    def _refusal(self, job: Job) -> Failure | None:
        """Why this worker answers nothing of the job."""
        if job.model is not None and job.model != self.model_id:
            return Failure(
                code=FailureCode.WRONG_MODEL,
                message=f"The job asks for the model {job.model}; this worker answers with {self.model_id}.",
            )
        if job.stream and self._streams is None:
            return Failure(code=FailureCode.INVALID_JOB, message="This worker publishes no tokens.")
        return None

    def _images(self, job: Job) -> list[Job]:
        """The job about each of its images alone; none when no question looks at an image."""
        if job.image is None or not any(question.uses_image(with_image=True) for question in job.questions):
            return []
        return list(job.each_image())

    def _content(self, job: Job, asked: Asked) -> bytes | Failure:
        """The image file's, or why it is not to be had."""
        try:
            _check_deadline(asked.deadline)
            return self._fetch(job)
        except Refusal as refusal:
            return refusal.failure

    def _picture(
        self, content: bytes | Failure, detail: Detail, asked: Asked, *, alone: bool
    ) -> FeaturesT | Failure:
        """The features of the image that holds `content`, or why there are none."""
        if isinstance(content, Failure):
            return content

        def decode() -> Image.Image:
            image = self._decode(content, isolated=asked.isolated)
            self._give_way(asked)
            return image

        try:
            return self._model.features(content, decode, detail, asked.urgent, alone=alone)
        except Refusal as refusal:
            return refusal.failure

    def _start(
        self,
        question: Question,
        picture: FeaturesT | Failure | None,
        asked: Asked,
        flags: tuple[Flag, ...] = (),
    ) -> Started | Failure:
        if not question.uses_image(with_image=picture is not None):
            picture, flags = None, ()
        if isinstance(picture, Failure):
            return picture
        try:
            self._give_way(asked)
            _check_deadline(asked.deadline)
            prompt = self._model.prompt(question, picture)
            request = self._request(question, picture, prompt, asked)
            self._check_length(prompt, request)
            return Started(question, prompt, self._engine.submit(request), flags)
        except Refusal as refusal:
            return refusal.failure
        except EngineStoppedError:
            raise
        except Exception as bug:
            log.exception("question %s could not be started", question.id)
            return internal_error(bug)

    def _request(
        self,
        question: Question,
        picture: FeaturesT | None,
        prompt: Prompt,
        asked: Asked,
    ) -> Request:
        parameters = asked.parameters
        choices = self._model.choice_ids(question, picture) if question.choices else ()
        return Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=self._model.eos_token_ids,
            parameters=parameters,
            prefix=None if prompt.prefix_key is None else Prefix(prompt.prefix_key, prompt.prefix_tokens),
            positions=prompt.positions,
            choices=choices,
            stops=self._model.stops(parameters.stop) if parameters.stop and not choices else None,
            on_tokens=None if asked.stream is None else asked.stream.take,
            stop_asked=None if asked.stream is None else asked.stream.stop_asked,
            deadline=asked.deadline,
            urgent=asked.urgent,
        )

    def _check_length(self, prompt: Prompt, request: Request) -> None:
        prompt_tokens, new_tokens = len(prompt.token_ids), request.max_new_tokens
        if prompt_tokens + new_tokens > self._model.context_tokens:
            wanted = "the longest choice has" if request.choices else "max_new_tokens is"
            raise Refusal(
                FailureCode.QUESTION_TOO_LONG,
                f"The prompt has {prompt_tokens} tokens, {prompt.image_tokens} of them for the image, and "
                f"{wanted} {new_tokens}; the model's context is {self._model.context_tokens} tokens.",
            )

    def _wait(self, generations: list[Future[Generations]], wanted: Callable[[], bool] | None) -> None:
        """Return when all are done.

        Raises Cancelled, and Requeue while draining if none has begun or the time is up.
        """
        pending: set[Future[Generations]] = set(generations)
        while pending:
            pending = wait(pending, timeout=DRAIN_POLL_S).not_done
            drained = bool(pending) and self._is_drained(generations)
            if drained or (pending and wanted is not None and not wanted()):
                for generation in generations:
                    generation.cancel()
                raise Requeue if drained else Cancelled

    def _is_drained(self, generations: list[Future[Generations]]) -> bool:
        """Whether these are to be given back."""
        if self._drained_at is None:
            return False
        begun = any(g.running() or g.done() for g in generations)
        return not begun or time.monotonic() >= self._drained_at

    def _outcome(self, started: Started | Failure, job: Job) -> Answer | Failure:
        """The generations as an answer. A bug in one question leaves the others answered, as in `_start`."""
        if isinstance(started, Failure):
            return started
        try:
            generations = started.generations.result()
            if started.question.choices:
                answer = chosen_answer(generations, started.prompt_tokens, started.question.choices)
            else:
                decode = partial(self._model.decode, stop=job.parameters.stop)
                eos = self._model.eos_token_ids
                answer = free_answer(generations, started.prompt_tokens, decode, eos)
            return answer.model_copy(update={"flags": (*answer.flags, *started.flags)})
        except Refusal as refusal:
            return refusal.failure
        except EngineStoppedError:
            raise
        except Exception as bug:
            log.exception("run %s job %d: a generation failed", job.run, job.index)
            return internal_error(bug)


def internal_error(bug: BaseException) -> Failure:
    """The failure that a bug ends in. Its text stays in the worker's log: it may quote anything."""
    return Failure(
        code=FailureCode.INTERNAL_ERROR,
        message=f"The worker failed with {type(bug).__name__}; its log says more.",
    )


def _of_image(failure: Failure, number: int, count: int) -> Failure:
    """The failure of one of several images says which."""
    if count == 1:
        return failure
    return failure.model_copy(update={"message": f"Image {number} of {count}: {failure.message}"})


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() >= deadline:
        raise Refusal(FailureCode.DEADLINE_EXCEEDED, "The job's deadline passed before it was answered.")
