"""Tells what the batch has room for: rows, prompt tokens, KV cache bytes; knows no order and no sequence."""

from collections.abc import Iterable
from dataclasses import dataclass

from contract.failure import FailureCode, Refusal
from worker.engine.request import Request
from worker.engine.runner import Runner


@dataclass(frozen=True)
class Limits:
    """The most that all requests in the batch take, and that one step appends."""

    kv_bytes: int
    rows: int
    step_tokens: int
    priority_rows: int = 0
    """in addition to `rows`, for requests with priority alone; others then leave them room in the cache"""

    def __post_init__(self) -> None:
        most_rows = self.rows + self.priority_rows
        if not 1 <= self.rows <= most_rows <= self.step_tokens or self.kv_bytes < 1:
            raise ValueError(f"a step must hold a token of every row: {self}")


class AdmissionBudget:
    """What is left of the limits while requests are admitted to one step."""

    def __init__(
        self, runner: Runner, limits: Limits, running: Iterable[Request], ended: Iterable[Request]
    ) -> None:
        """Requests that have `ended` hold bytes of the cache and no rows."""
        self._runner = runner
        self._limits = limits
        self._in_cache = [*running]
        prioritised = sum(request.rows for request in self._in_cache if request.has_priority)
        others = sum(request.rows for request in self._in_cache if not request.has_priority)
        self._in_cache += ended
        # Requests with priority fill their own rows first.
        self._priority_rows = limits.priority_rows - min(prioritised, limits.priority_rows)
        self._rows = limits.rows - others - max(prioritised - limits.priority_rows, 0)
        self._prompt_tokens = limits.step_tokens - (prioritised + others if runner.mixes_steps else 0)

    @property
    def has_rows(self) -> bool:
        """Whether any row is left."""
        return self._rows + self._priority_rows > 0

    def fits(self, request: Request, prompt_tokens: int) -> bool:
        """Whether there is room for a request, `prompt_tokens` of whose prompt the step computes."""
        return (
            request.rows - self._own_rows(request) <= self._rows
            and prompt_tokens <= self._prompt_tokens
            and self._bytes_suffice(request)
        )

    def take(self, request: Request, prompt_tokens: int) -> None:
        """Reserve what a request that fits() needs."""
        own_rows = self._own_rows(request)
        self._priority_rows -= own_rows
        self._rows -= request.rows - own_rows
        self._prompt_tokens -= prompt_tokens
        self._in_cache.append(request)

    def _own_rows(self, request: Request) -> int:
        """Number of its rows that are taken from those for requests with priority."""
        return min(request.rows, self._priority_rows) if request.has_priority else 0

    def _bytes_suffice(self, request: Request) -> bool:
        """Whether the cache has room for the request.

        A request without priority, unless it is alone, leaves room for one row with priority of its own
        length.
        """
        limit_bytes = self._limits.kv_bytes
        if self._in_cache and self._limits.priority_rows and not request.has_priority:
            limit_bytes -= self._runner.bytes_for(request.max_tokens)
        return most_bytes(self._runner, (*self._in_cache, request)) <= limit_bytes


def most_bytes(runner: Runner, requests: Iterable[Request]) -> int:
    """The most bytes of the KV cache that these requests fill together."""
    total = 0
    prefixes: dict[bytes, int] = {}
    for request in requests:
        positions = request.max_tokens
        if runner.shares_prefixes and request.prefix is not None:
            prefixes[request.prefix.key] = runner.bytes_for(request.prefix.tokens)
            positions -= request.prefix.tokens
        total += request.rows * runner.bytes_for(positions)
    return total + sum(prefixes.values())


def refuse_too_large(runner: Runner, limits: Limits, request: Request) -> None:
    """Raise Refusal if the request is larger than the whole batch may be."""
    prompt_tokens = len(request.inputs_embeds)
    needed_bytes = most_bytes(runner, [request])
    if request.rows > limits.rows:
        reason = f"needs {request.rows} rows at once and this worker runs {limits.rows}"
    elif needed_bytes > limits.kv_bytes:
        reason = (
            f"may fill {needed_bytes / 2**20:.0f} MiB of the KV cache with {request.rows} x "
            f"{request.max_tokens} tokens and this worker has {limits.kv_bytes / 2**20:.0f} MiB"
        )
    elif prompt_tokens > limits.step_tokens:
        reason = f"has {prompt_tokens} prompt tokens and this worker takes {limits.step_tokens} in a step"
    else:
        return
    raise Refusal(
        FailureCode.EXCEEDS_CAPACITY,
        f"The request {reason}; ask for less, or give the worker more room.",
    )
