"""Submits a job's questions to the engine and turns its generations into answers; knows no image file."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from contract.answer import Answer, Flag
from contract.failure import Failure, FailureCode, Refusal
from contract.job import GenerationParameters, Question
from worker.answers import chosen_answer, free_answer
from worker.device_scheduler import DeviceScheduler
from worker.engine.inbox import EngineStoppedError
from worker.engine.request import Generations, Prefix, Request
from worker.errors import attempt
from worker.lane import Lane
from worker.protocols import Engine, FeaturesT, Model, Prompt, Stream

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class JobContext:
    """What holds for all questions of a job. `deadline` is in seconds of the monotonic clock."""

    parameters: GenerationParameters
    deadline: float | None = None
    lane: Lane = Lane.BULK
    stream: Stream | None = None

    def check_deadline(self) -> None:
        """Raise Refusal(DEADLINE_EXCEEDED) once the deadline has passed."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise Refusal(
                FailureCode.DEADLINE_EXCEEDED,
                "The job's deadline passed before it was answered; send it again with a later one.",
            )


@dataclass(frozen=True)
class Started:
    """A question in the engine. `flags` are those of its image."""

    question: Question
    prompt_tokens: int
    generations: Future[Generations]
    flags: tuple[Flag, ...]


class Questions(Generic[FeaturesT]):
    """One per service; any thread may call its methods.

    A bug in one question fails this question alone; the job's other questions are answered.
    """

    def __init__(self, model: Model[FeaturesT], engine: Engine, device: DeviceScheduler) -> None:
        self._model = model
        self._engine = engine
        self._device = device

    def start(
        self,
        question: Question,
        picture: FeaturesT | Failure | None,
        context: JobContext,
        flags: tuple[Flag, ...] = (),
    ) -> Started | Failure:
        """Submit a question. `picture` is its images' features, why there are none, or None without image.

        May raise EngineStoppedError.
        """
        if not question.uses_image(with_image=picture is not None):
            picture, flags = None, ()
        if isinstance(picture, Failure):
            return picture
        self._device.yield_to_interactive(context.lane)
        return _or_failure(
            lambda: self._started(question, picture, context, flags),
            f"question {question.id} could not be started",
        )

    def answer(self, started: Started | Failure, context: JobContext) -> Answer | Failure:
        """The outcome of a question that start() returned; waits for its generations."""
        if isinstance(started, Failure):
            return started
        return _or_failure(
            lambda: self._answer(started, context), f"question {started.question.id} could not be answered"
        )

    def _started(
        self, question: Question, picture: FeaturesT | None, context: JobContext, flags: tuple[Flag, ...]
    ) -> Started:
        context.check_deadline()
        prompt = self._model.prompt(question, picture)
        request = self._request(question, picture, prompt, context)
        self._check_length(prompt, request)
        return Started(question, len(prompt.token_ids), self._engine.submit(request), flags)

    def _request(
        self, question: Question, picture: FeaturesT | None, prompt: Prompt, context: JobContext
    ) -> Request:
        parameters, stream = context.parameters, context.stream
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
            on_tokens=None if stream is None else stream.take,
            stop_asked=None if stream is None else stream.stop_asked,
            deadline=context.deadline,
            has_priority=context.lane is Lane.INTERACTIVE,
        )

    def _check_length(self, prompt: Prompt, request: Request) -> None:
        prompt_tokens, new_tokens = len(prompt.token_ids), request.max_new_tokens
        # Of an image whose tokens are not all kept, each has its position among all.
        span = prompt_tokens if prompt.positions is None else max(prompt_tokens, prompt.positions[-1] + 1)
        if span + new_tokens > self._model.context_tokens:
            wanted = "the longest choice has" if request.choices else "max_new_tokens is"
            among = f", at positions among {span}" if span > prompt_tokens else ""
            raise Refusal(
                FailureCode.QUESTION_TOO_LONG,
                f"The prompt has {prompt_tokens} tokens{among}, {prompt.image_tokens} of them for the image, "
                f"and {wanted} {new_tokens}; the model's context is {self._model.context_tokens} tokens.",
            )

    def _answer(self, started: Started, context: JobContext) -> Answer:
        generations = started.generations.result()
        if started.question.choices:
            answer = chosen_answer(generations, started.prompt_tokens, started.question.choices)
        else:
            decode = partial(self._model.decode, stop=context.parameters.stop)
            answer = free_answer(generations, started.prompt_tokens, decode, self._model.eos_token_ids)
        return answer.model_copy(update={"flags": (*answer.flags, *started.flags)})


def internal_error(bug: BaseException) -> Failure:
    """The failure of a question that a bug ended. Its text stays in the log, as it may quote anything."""
    return Failure(
        code=FailureCode.INTERNAL_ERROR,
        message=f"The worker failed with {type(bug).__name__}; its log says more.",
    )


def _or_failure(call: Callable[[], T], what: str) -> T | Failure:
    found = attempt(call)
    if isinstance(found, EngineStoppedError):
        raise found
    if isinstance(found, Refusal):
        return found.failure
    if isinstance(found, Exception):
        log.error(what, exc_info=found)
        return internal_error(found)
    return found
