"""Decides which requests are in the batch and what each appends next; holds no tensor and knows no backend.

Requests are admitted in the order they came, urgent ones before all others, within three budgets. One whose
prompt begins like that of a request in the batch forks it; it may overtake a request that waits for room.
None is overtaken more than so often, by forks and urgent ones together.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contract.failure import FailureCode, Refusal
from worker.engine.request import IntArray, Request
from worker.engine.runner import Runner, SequenceId
from worker.engine.search import NextRows, Search, search_for

MOST_OVERTAKEN: Final = 32
"""So many requests may be admitted before one that came earlier and waits."""
MOST_HELD_UP: Final = 32
"""After so many steps in a row for prompts alone, no request is admitted until every row had its step."""
MOST_HELD_UP_URGENT: Final = 1
"""The same while an urgent request decodes."""
PROMPT_TOKENS_BESIDE: Final = 512
"""Of prompts that are not urgent in one mixed step, or one of them if it is longer: an urgent one that comes
meanwhile waits for the step. A LLaVA prompt is at least as long."""


@dataclass(frozen=True)
class Limits:
    """What the requests in the batch may take together, and what one step may append."""

    kv_bytes: int
    rows: int
    step_tokens: int
    urgent_rows: int = 0
    """beside `rows`, for urgent requests alone; others then leave them room in the cache too"""

    def __post_init__(self) -> None:
        most_rows = self.rows + self.urgent_rows
        if not 1 <= self.rows <= most_rows <= self.step_tokens or self.kv_bytes < 1:
            raise ValueError(f"a step must hold a token of every row: {self}")


class Flight:
    """A request from its arrival to its end: its search, its rows' sequences and what they append next."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.search: Search = search_for(request)
        self.sequences: list[SequenceId] = []
        self.prompt_done = 0
        """So many of the prompt's positions are in its one sequence."""
        self.token_ids: IntArray | None = None
        """(row,) to append next, one to each sequence; None before the prompt is through"""
        self.appended = 0
        """So many tokens were appended to each sequence behind the prompt."""
        self.overtaken = 0
        self.arrival = 0

    @property
    def next_position(self) -> IntArray | None:
        """(1,), of the token to append next; None where the runner counts."""
        positions = self.request.positions
        return None if positions is None else positions[-1:] + 1 + self.appended

    @property
    def prompt_left(self) -> int:
        return len(self.request.inputs_embeds) - self.prompt_done


@dataclass(frozen=True, eq=False)
class Turn:
    """What one flight appends in a step: positions of its prompt, or a token to each of its rows."""

    flight: Flight
    prompt: slice | None = None

    @property
    def rows(self) -> int:
        """So many rows of logits come of it."""
        return len(self.flight.sequences)


class Scheduler:
    """Admits, orders and ends sequences on a runner, of which it never calls step()."""

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self._waiting: deque[Flight] = deque()
        self._running: list[Flight] = []
        # Ended, but not yet released: those that wait may still fork them.
        self._leaving: list[Flight] = []
        self._held_up = 0
        self._arrivals = 0
        self.prefix_hits = 0
        """So many requests began as a fork of another's prefix."""

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running or self._leaving)

    @property
    def rows(self) -> int:
        """Sequences in the batch. May be asked from any thread."""
        return sum(len(flight.sequences) for flight in tuple(self._running))

    @property
    def kv_bytes(self) -> int:
        """What is set aside for the requests in the batch. May be asked from any thread."""
        return self._bytes([flight.request for flight in (*self._running, *self._leaving)])

    def add(self, request: Request) -> Flight:
        """Queue a request. Raises Refusal if it is larger than the whole batch may be."""
        self._refuse_too_large(request)
        flight = Flight(request)
        flight.arrival = self._arrivals = self._arrivals + 1
        self._waiting.append(flight)
        return flight

    def plan(self) -> list[Turn]:
        """Admit what there is room for and say what the next step appends; empty when nothing is running."""
        if self._held_up < self._most_held_up():
            self._release_ended(keep=self._wanted_sources())
            self._admit()
            self._release_ended(keep=set())
        turns = self._mixed_step() if self._runner.mixes_steps else self._separate_step()
        self._held_up = 0 if len(turns) == len(self._running) else self._held_up + 1
        return turns

    def _most_held_up(self) -> int:
        decodes = any(flight.request.urgent and not flight.prompt_left for flight in self._running)
        return MOST_HELD_UP_URGENT if decodes else MOST_HELD_UP

    def proceed(self, flight: Flight, rows: NextRows) -> None:
        """Make the flight's sequences those of `rows`: forked, reordered or dropped as they ask."""
        parents = [flight.sequences[index] for index in rows.beam_idx]
        max_positions = flight.request.max_tokens
        # Released before forked: the request has room for its own rows and no more.
        for sequence in flight.sequences:
            if sequence not in parents:
                self._runner.release(sequence)
        kept: list[SequenceId] = []
        for parent in parents:
            kept.append(self._runner.fork(parent, max_positions) if parent in kept else parent)
        flight.sequences, flight.token_ids = kept, rows.token_ids

    def end(self, flight: Flight) -> None:
        """Take a flight out, wherever it is; the next plan() may still fork its rows."""
        if flight in self._running:
            self._running.remove(flight)
            self._leaving.append(flight)
        else:
            self._waiting.remove(flight)

    def drop(self, flights: Iterable[Flight]) -> None:
        """Take flights out of the batch whose step failed; nothing forks them."""
        for flight in flights:
            self._running.remove(flight)
            self._release(flight)

    def _release_ended(self, keep: set[SequenceId]) -> None:
        """Release those that have ended, but for the ones whose first sequence is in `keep`."""
        for flight in self._leaving:
            if flight.sequences[0] not in keep:
                self._release(flight)
        self._leaving = [flight for flight in self._leaving if flight.sequences]

    def _release(self, flight: Flight) -> None:
        for sequence in flight.sequences:
            self._runner.release(sequence)
        flight.sequences = []

    # Room

    def _refuse_too_large(self, request: Request) -> None:
        limits = self._limits
        prompt_tokens = len(request.inputs_embeds)
        needed_bytes = self._bytes([request])
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

    def _bytes(self, requests: Iterable[Request]) -> int:
        """The most that these requests together fill of the KV cache."""
        total = 0
        prefixes: dict[bytes, int] = {}
        for request in requests:
            positions = request.max_tokens
            if self._runner.shares_prefixes and request.prefix is not None:
                prefixes[request.prefix.key] = self._runner.bytes_for(request.prefix.tokens)
                positions -= request.prefix.tokens
            total += request.rows * self._runner.bytes_for(positions)
        return total + sum(prefixes.values())

    def _bytes_suffice(self, flight: Flight, set_aside: list[Flight]) -> bool:
        """Whether it has room in the cache beside those that run, are to be released or are `set_aside`.

        One that is not urgent leaves room for an urgent row as long as its own, unless it would be alone.
        """
        others = (*self._running, *self._leaving, *set_aside)
        limit_bytes = self._limits.kv_bytes
        if others and self._limits.urgent_rows and not flight.request.urgent:
            limit_bytes -= self._runner.bytes_for(flight.request.max_tokens)
        return self._bytes(other.request for other in (*others, flight)) <= limit_bytes

    # Admission

    def _admit(self) -> None:
        """Begin what there is room for, in the order of _queue(); forks alone may overtake."""
        rows_left, urgent_rows_left = self._rows_left()
        rows = sum(flight.request.rows for flight in self._running)
        step_tokens = self._limits.step_tokens - (rows if self._runner.mixes_steps else 0)
        sources = self._sources()
        coming = {f.request.prefix.key for f in self._running if f.request.prefix} - sources.keys()
        # Those whose prefix is only now being computed fork it in the next plan: room is set aside for them.
        set_aside: list[Flight] = []
        passed_over: list[Flight] = []
        for flight in self._queue():
            if rows_left + urgent_rows_left <= 0 or any(
                other.overtaken >= MOST_OVERTAKEN for other in passed_over
            ):
                break
            source = self._source_for(flight, sources)
            if passed_over and (source is None or any(other.request.urgent for other in passed_over)):
                continue
            prefix = flight.request.prefix
            forked_tokens = prefix.tokens if prefix and source is not None else 0
            is_coming = prefix is not None and prefix.key in coming
            tokens = 0 if is_coming else flight.prompt_left - forked_tokens
            own_rows = min(flight.request.rows, urgent_rows_left) if flight.request.urgent else 0
            has_room = flight.request.rows - own_rows <= rows_left and tokens <= step_tokens
            if not (has_room and self._bytes_suffice(flight, set_aside)):
                passed_over.append(flight)
                continue
            rows_left -= flight.request.rows - own_rows
            urgent_rows_left -= own_rows
            step_tokens -= tokens
            if is_coming:
                set_aside.append(flight)
                continue
            self._begin(flight, source)
            if prefix and source is None:
                coming.add(prefix.key)
            for other in self._overtaken_by(flight, passed_over):
                other.overtaken += 1

    def _rows_left(self) -> tuple[int, int]:
        """Of the rows for all, and of those for urgent requests, which fill theirs first."""
        limits = self._limits
        urgent = sum(flight.request.rows for flight in self._running if flight.request.urgent)
        others = sum(flight.request.rows for flight in self._running if not flight.request.urgent)
        beside = min(urgent, limits.urgent_rows)
        return limits.rows - others - (urgent - beside), limits.urgent_rows - beside

    def _queue(self) -> list[Flight]:
        """Those that wait: the ones overtaken often enough, then the urgent ones, then the others."""

        def rank(flight: Flight) -> int:
            if flight.overtaken >= MOST_OVERTAKEN:
                return 0
            return 1 if flight.request.urgent else 2

        return sorted(self._waiting, key=rank)

    def _overtaken_by(self, flight: Flight, passed_over: list[Flight]) -> list[Flight]:
        """Of those that wait on, the ones that came before a flight which begins now."""
        if not flight.request.urgent:
            return passed_over
        return [f for f in self._waiting if f.arrival < flight.arrival and not f.request.urgent]

    def _sources(self) -> dict[bytes, SequenceId]:
        """A sequence that begins with it for each prefix in the batch, those about to leave included."""
        return {
            flight.request.prefix.key: flight.sequences[0]
            for flight in (*self._leaving, *self._running)
            if flight.request.prefix and flight.prompt_done >= flight.request.prefix.tokens
        }

    def _wanted_sources(self) -> set[SequenceId]:
        """Of the sequences that can be forked, those that a waiting request begins like."""
        wanted = {flight.request.prefix.key for flight in self._waiting if flight.request.prefix}
        return {sequence for key, sequence in self._sources().items() if key in wanted}

    def _source_for(self, flight: Flight, sources: dict[bytes, SequenceId]) -> SequenceId | None:
        """The sequence that a flight begins with a fork of; None for a prompt to be computed whole."""
        prefix = flight.request.prefix
        if prefix is None or prefix.key not in sources:
            return None
        source = sources[prefix.key]
        return source if self._runner.can_fork(source, flight.request.max_tokens, prefix.tokens) else None

    def _begin(self, flight: Flight, source: SequenceId | None) -> None:
        prefix, max_positions = flight.request.prefix, flight.request.max_tokens
        if prefix and source is not None:
            flight.sequences = [self._runner.fork(source, max_positions, prefix.tokens)]
            flight.prompt_done = prefix.tokens
            self.prefix_hits += 1
        else:
            flight.sequences = [self._runner.begin(max_positions)]
        self._waiting.remove(flight)
        self._running.append(flight)

    # Steps

    def _mixed_step(self) -> list[Turn]:
        """Everything at once, for which room was seen to on admission; urgent prompts without other ones.

        Where urgent ones may come, PROMPT_TOKENS_BESIDE of the other prompts, from the first.
        """
        prompts = [f for f in self._running if f.prompt_left]
        now = [f for f in prompts if f.request.urgent] or prompts
        if self._limits.urgent_rows and now is prompts:
            now = _first(prompts, PROMPT_TOKENS_BESIDE) or prompts[:1]
        return [
            Turn(f, _rest_of_prompt(f) if f.prompt_left else None)
            for f in self._running
            if not f.prompt_left or f in now
        ]

    def _separate_step(self) -> list[Turn]:
        """Prompts before all else, so that many rows can decode together, and urgent ones alone; then tokens.

        Where urgent ones may come prompts go one by one: a runner that does not mix steps computes each by
        itself anyway, and what comes in between waits for one of them.
        A fork that joins more rows than come with it goes along with their tokens, one position a step:
        given whole, each of its positions would be computed for all of these rows.
        """
        whole = [f for f in self._running if f.prompt_left and not self._joins(f)]
        prompts = _first([f for f in whole if f.request.urgent] or whole, self._limits.step_tokens)
        if self._limits.urgent_rows:
            prompts = prompts[:1]
        if prompts:
            return [Turn(f, _rest_of_prompt(f)) for f in prompts]
        return [
            Turn(f, slice(f.prompt_done, f.prompt_done + 1) if f.prompt_left else None) for f in self._running
        ]

    def _joins(self, flight: Flight) -> bool:
        """Whether it is a fork, and more rows of its prefix are past their prompt than flights are not."""
        prefix = flight.request.prefix
        if prefix is None or flight.prompt_done == 0:
            return False
        kin = [f for f in self._running if f.request.prefix and f.request.prefix.key == prefix.key]
        decoding = sum(len(f.sequences) for f in kin if not f.prompt_left)
        return decoding > sum(1 for f in kin if f.prompt_left)


def _first(flights: list[Flight], most_tokens: int) -> list[Flight]:
    """So many, from the first, that the rests of their prompts are no more than `most_tokens` together."""
    tokens, fitting = 0, []
    for flight in flights:
        tokens += flight.prompt_left
        if tokens > most_tokens:
            break
        fitting.append(flight)
    return fitting


def _rest_of_prompt(flight: Flight) -> slice:
    return slice(flight.prompt_done, len(flight.request.inputs_embeds))
