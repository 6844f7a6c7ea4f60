"""The messages between the bench and the process of an engine; standard library only."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

Mode = Literal["batch", "single"]


@dataclass(frozen=True)
class Ask:
    """A question about a picture file, or without one, and the number of tokens to answer with."""

    picture: str | None
    question: str
    new_tokens: int


@dataclass(frozen=True)
class Task:
    """Asks to answer in one call (`batch`), or one after another (`single`)."""

    asks: tuple[Ask, ...]
    num_beams: int
    detail: Literal["low", "high"]
    mode: Mode
    visual_tokens: int | None = None


@dataclass(frozen=True)
class Setup:
    """What an engine loads; `options` are the engine's, `properties` OpenVINO's."""

    folder: str
    properties: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """Token counts of a task over all its asks; `counters` are the engine's own."""

    prompt_tokens: int
    new_tokens: int
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A task's counts and duration, and the peak memory of the process so far."""

    counts: Counts
    seconds: float
    peak_rss_bytes: int


class Engine(Protocol):
    """A loaded engine, as each module of this package provides it."""

    def answer(self, task: Task) -> Counts: ...


def ask_each(task: Task, answer: Callable[[Ask], tuple[int, int]]) -> Counts:
    """The counts of one call per ask; `answer` returns (prompt tokens, new tokens)."""
    prompts, news = zip(*(answer(ask) for ask in task.asks), strict=True)
    return Counts(sum(prompts), sum(news))


def serve(load: Callable[[Setup], Engine]) -> None:
    """Load the Setup in the first line of stdin, then answer the Task in each further line.

    Each line gets a line of JSON as reply: an empty object when loaded, then a Reply. Other output of
    libraries goes to stderr.
    """
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    engine = load(Setup(**json.loads(sys.stdin.readline())))
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        fields = json.loads(line)
        task = Task(**fields | {"asks": tuple(Ask(**ask) for ask in fields["asks"])})
        begun = time.perf_counter()
        counts = engine.answer(task)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(asdict(Reply(counts, seconds, peak))), file=replies, flush=True)
