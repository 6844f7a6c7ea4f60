"""What goes over the pipe between the bench and the process of one engine; standard library alone."""

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
    """One question about the picture in a file, or about nothing, and how many tokens to answer it with."""

    picture: str | None
    question: str
    new_tokens: int


@dataclass(frozen=True)
class Task:
    """Asks to answer: in one call as `batch`, or one after another as `single`."""

    asks: tuple[Ask, ...]
    num_beams: int
    detail: Literal["low", "high"]
    mode: Mode


@dataclass(frozen=True)
class Setup:
    """What an engine loads. `options` are its own, `properties` OpenVINO's."""

    folder: str
    properties: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What one task came to, over all its asks; `counters` are the engine's own, over the task."""

    prompt_tokens: int
    new_tokens: int
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A task's counts, its duration and the most memory the process has held until now."""

    counts: Counts
    seconds: float
    peak_rss_bytes: int


class Engine(Protocol):
    """What each file of this package makes of a Setup."""

    def answer(self, task: Task) -> Counts: ...


def ask_each(task: Task, answer: Callable[[Ask], tuple[int, int]]) -> Counts:
    """One call after another; `answer` returns (prompt tokens, new tokens)."""
    prompts, news = zip(*(answer(ask) for ask in task.asks), strict=True)
    return Counts(sum(prompts), sum(news))


def serve(load: Callable[[Setup], Engine]) -> None:
    """Load as the first line of stdin says, then answer the task of each further line until it ends.

    One JSON line goes back for each line: an empty object when loaded, then a Reply each. Whatever else the
    libraries print goes to stderr.
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
