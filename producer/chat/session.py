"""Sends the questions of all visitors, and reports the progress of each; knows no page."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import redis
from pydantic import ValidationError

from contract.answer import Answer
from contract.broker import JOB_QUEUE
from contract.counting import counted
from contract.failure import Failure
from producer.ask import InteractiveQuestion, NoWorkerError, Waiting
from producer.chat.chosen import AnsweredBy
from producer.connection import SECONDS, connect
from producer.parameter_layers import first_complaint
from producer.queue import BrokerAwayError, Queue


@dataclass(frozen=True)
class Progress:
    """A question's progress. It has `ended` with an answer, a failure or `trouble`, or was stopped."""

    text: str = ""
    first_s: float | None = None
    """Seconds from sending to the first text."""
    seconds: float = 0.0
    outcome: Answer | Failure | None = None
    trouble: str | None = None
    stopped: bool = False
    ended: bool = False

    def note(self) -> str:
        """Speed and length of the answer, in words."""
        words = []
        if self.stopped:
            words.append("stopped")
        if self.first_s is not None:
            words.append(f"{self.first_s:.2f} s to the first token")
        if isinstance(self.outcome, Answer):
            tokens = self.outcome.completion_tokens
            if self.first_s is None:
                words.append(f"{self.seconds:.2f} s")
            elif tokens > 1 and self.seconds > self.first_s:
                words.append(f"{(tokens - 1) / (self.seconds - self.first_s):.0f} tokens/s")
            words.append(counted(tokens, "token"))
            if self.outcome.finish_reason == "length" and not self.stopped:
                words.append("cut at max tokens")
        return ", ".join(words)


class Sessions:
    """The questions of all sessions, which are named by their pages. Thread-safe."""

    def __init__(self, answered_by: AnsweredBy) -> None:
        """Raises ServerError if no server answers."""
        self.answered_by = answered_by
        redis_url = answered_by.redis_url
        self._redis = connect(redis_url, patience=SECONDS)
        self._queue = _SharedQueue(redis_url, self._redis)
        self._lock = threading.Lock()
        self._waiting: dict[Waiting, str] = {}

    def ask(self, session: str, asked: InteractiveQuestion) -> Iterator[Progress]:
        """Progress after each piece of text; the last one has `ended`, and any error as `trouble`."""
        begun = time.monotonic()
        now = Progress()
        try:
            waiting = Waiting(self._redis, self._queue, asked)
            with self._lock:
                self._waiting[waiting] = session
            try:
                with closing(waiting.pieces()) as pieces:
                    for piece in pieces:
                        seconds = time.monotonic() - begun
                        first_s = seconds if now.first_s is None else now.first_s
                        now = replace(now, text=now.text + piece, first_s=first_s, seconds=seconds)
                        yield now
            finally:
                with self._lock:
                    del self._waiting[waiting]
            now = replace(now, outcome=waiting.outcome, stopped=waiting.stopped)
        except NoWorkerError as nobody:
            now = replace(now, trouble=str(nobody))
        except ValidationError as invalid:
            now = replace(now, trouble=first_complaint(invalid))
        except OSError as error:
            now = replace(now, trouble=f"The image cannot be used: {error.strerror or error}.")
        except (redis.RedisError, BrokerAwayError) as error:
            now = replace(now, trouble=f"Redis does not answer ({error}); is it running?")
        if isinstance(now.outcome, Answer):
            now = replace(now, text=now.outcome.text)
        yield replace(now, seconds=time.monotonic() - begun, ended=True)

    def stop(self, session: str | None = None) -> None:
        """End the questions of a session; None ends all."""
        with self._lock:
            stopped = [one for one, owner in self._waiting.items() if session in (None, owner)]
        for waiting in stopped:
            waiting.stop()

    def close(self) -> None:
        """Stop all questions, without waiting for their end."""
        self.stop()
        self._queue.close()


class _SharedQueue(Queue):
    """One connection to the broker, which the sessions use in turn."""

    def __init__(self, redis_url: str, connection: redis.Redis) -> None:
        super().__init__(redis_url, connection)
        self._lock = threading.Lock()

    def submit(self, jobs: Sequence[tuple[str, str]], queue: str = JOB_QUEUE, *, together: int = 1) -> None:
        with self._lock:
            super().submit(jobs, queue, together=together)
