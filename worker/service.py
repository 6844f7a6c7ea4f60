"""One job from top to bottom: fetch, decode, encode, prompt, generate; knows no broker and no store."""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final, Generic

from PIL import Image

from contract.answer import Answer, Flag, JobResult, QuestionResult
from contract.failure import Failure, FailureCode, Refusal
from contract.job import GenerationParameters, Job, Question
from worker.device_scheduler import DeviceScheduler
from worker.engine.inbox import EngineStoppedError
from worker.engine.request import Generations
from worker.errors import Cancelled, Requeue
from worker.images.jpeg_scans import lacks_end
from worker.lane import Lane
from worker.look import Look
from worker.protocols import Decode, Engine, FeaturesT, Fetch, Model, Stream, Streams
from worker.questions import JobContext, Questions, Started

DRAIN_POLL_S: Final = 0.2
DRAIN_S: Final = 60.0
WORKER: Final = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
"""This worker's name: host, process id and a random mark, as a restarted container may repeat both."""


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
        device: DeviceScheduler | None = None,
    ) -> None:
        """Answers name `model_id`; None stands for the model's own. Without `streams` no job has a stream.

        While draining, generations that have begun get `drain_s` to end. `device` decides whose work is next;
        model and engine use the same one.
        """
        self._model = model
        self.model_id = model.model_id if model_id is None else model_id
        self._engine = engine
        self._fetch = fetch
        self._decode = decode
        self._streams = streams
        self._drain_s = drain_s
        self._device = device or DeviceScheduler()
        self._questions = Questions(model, engine, self._device)
        self._drained_at: float | None = None
        """Monotonic time in seconds when running jobs go back to the queue; None while not draining."""

    def answer(self, job: Job, lane: Lane = Lane.BULK, wanted: Callable[[], bool] | None = None) -> JobResult:
        """An outcome for each question, in the job's order.

        `wanted` is asked repeatedly while the job is generated. Raises Cancelled once it says no, Requeue
        while draining or when an image's store is away, and EngineStoppedError when the engine has ended. Any
        other exception is a bug.
        """
        if self._drained_at is not None:
            raise Requeue
        begun = time.monotonic()
        deadline = None if job.deadline is None else begun + job.deadline - time.time()
        with self._stream(job) as stream:
            context = JobContext(job.parameters, deadline, lane, stream)
            started = self._begin(job, context)
            self._wait([one.generations for one in started if isinstance(one, Started)], wanted)
            self._device.yield_to_interactive(lane)
            outcomes = [self._questions.answer(question, context) for question in started]
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
        """From now on, requeue jobs of which nothing has been generated, and the others after `drain_s`.

        It only sets a field, so a signal handler may call it.
        """
        if self._drained_at is None:
            self._drained_at = time.monotonic() + self._drain_s

    def close(self) -> None:
        """End the engine. No job may be under way."""
        self._engine.close()

    def warm_up(self) -> None:
        """Answer one question about a grey image, so that the first job finds everything compiled."""
        features = self._model.encode_image(Image.new("RGB", (64, 48), (128, 128, 128)))
        question = Question(id="warm-up", messages="What is this?")
        context = JobContext(GenerationParameters(max_new_tokens=2))
        started = self._questions.start(question, features, context)
        if isinstance(started, Failure):
            raise RuntimeError(f"the model refuses the warm-up question: {started.message}")
        started.generations.result()

    @contextmanager
    def _stream(self, job: Job) -> Iterator[Stream | None]:
        """The stream of a job that asks for one. It ends with the block or is left to the next worker."""
        if not job.stream or self._streams is None:
            yield None
            return
        decode_so_far = partial(self._model.decode_so_far, stop=job.parameters.stop)
        with self._streams.open(job.run, job.index, decode_so_far) as stream:
            try:
                yield stream
            except (Requeue, EngineStoppedError):
                stream.leave()
                raise

    def _begin(self, job: Job, context: JobContext) -> list[Started | Failure]:
        """Each question as submitted to the engine, or the Failure that explains why it was not."""
        refusal = self._refusal(job)
        if refusal is not None:
            return [refusal] * len(job.questions)
        images = self._images(job)
        found: list[FeaturesT] = []
        failure: Failure | None = None
        flags: tuple[Flag, ...] = ()
        with ExitStack() as turn:
            if not images:
                turn.enter_context(self._device.interactive_turn(context.lane))
            look = Look(job.detail, job.parameters.visual_tokens, alone=len(images) == 1)
            for number, image_job in enumerate(images, start=1):
                turn.close()  # other jobs go on while an image is fetched
                content = self._content(image_job, context)
                if isinstance(content, bytes) and lacks_end(content):
                    flags = ("incomplete_image",)
                turn.enter_context(self._device.interactive_turn(context.lane))
                features = self._features(content, look, context)
                if isinstance(features, Failure):
                    failure = _of_image(features, number, len(images))
                    break
                found.append(features)
            picture = failure or (self._model.joined(found) if found else None)
            return [self._questions.start(question, picture, context, flags) for question in job.questions]

    def _refusal(self, job: Job) -> Failure | None:
        """The Failure of a job that this worker cannot answer; None if it can."""
        if job.model is not None and job.model != self.model_id:
            return Failure(
                code=FailureCode.WRONG_MODEL,
                message=f"The job asks for the model {job.model}; this worker answers with {self.model_id}.",
            )
        if job.stream and self._streams is None:
            message = "This worker publishes no tokens; send the job without stream."
            return Failure(code=FailureCode.INVALID_JOB, message=message)
        return None

    def _images(self, job: Job) -> list[Job]:
        """A copy of the job for each of its images; none when no question uses an image."""
        if job.image is None or not any(question.uses_image(with_image=True) for question in job.questions):
            return []
        return list(job.each_image())

    def _content(self, job: Job, context: JobContext) -> bytes | Failure:
        """Image bytes, or the Failure that explains why they are unavailable."""
        try:
            context.check_deadline()
            return self._fetch(job)
        except Refusal as refusal:
            return refusal.failure

    def _features(self, content: bytes | Failure, look: Look, context: JobContext) -> FeaturesT | Failure:
        """The features of the image that holds `content`, or the Failure that explains why there are none."""
        if isinstance(content, Failure):
            return content

        def decode() -> Image.Image:
            image = self._decode(content, context.lane)
            self._device.yield_to_interactive(context.lane)
            return image

        try:
            return self._model.features(content, decode, look, context.lane)
        except Refusal as refusal:
            return refusal.failure

    def _wait(self, generations: list[Future[Generations]], wanted: Callable[[], bool] | None) -> None:
        """Return when all generations are done.

        Raises Cancelled; while draining, Requeue if none has begun or the time is up.
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
        """Whether draining requeues the job of these generations."""
        if self._drained_at is None:
            return False
        begun = any(g.running() or g.done() for g in generations)
        return not begun or time.monotonic() >= self._drained_at


def _of_image(failure: Failure, number: int, count: int) -> Failure:
    """The failure of an image, with its number if it is one of several."""
    if count == 1:
        return failure
    return failure.model_copy(update={"message": f"Image {number} of {count}: {failure.message}"})
