"""Decides which requests are in the batch and when they leave it; holds no tensor and knows no backend.

Requests are admitted in the order they came, those with priority first, within three budgets. A request that
begins like one in the batch forks it, and may then overtake a request that waits for room. None is overtaken
more than MOST_OVERTAKEN times, by forks and by requests with priority together.
"""

from collections.abc import Iterable
from typing import Final

from worker.engine.admission import AdmissionBudget, Limits, most_bytes, refuse_too_large
from worker.engine.request import Request
from worker.engine.runner import Runner, SequenceId
from worker.engine.scheduled_request import ScheduledRequest, Status, StepItem
from worker.engine.search import NextRows
from worker.engine.step_plan import mixed_step, separate_step

MOST_OVERTAKEN: Final = 32
"""Most requests that are admitted before an earlier one in the queue."""
MOST_HELD_UP: Final = 32
"""Number of steps in a row for prompts alone; then no request is admitted until every row has had a step."""
MOST_HELD_UP_PRIORITY: Final = 1
"""The same while a request with priority decodes."""


class Scheduler:
    """Admits, orders and ends sequences on a runner; it never calls step()."""

    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        # Requests of one status are in the order of their admission, end or arrival.
        self._requests: list[ScheduledRequest] = []
        self._held_up = 0
        self._arrivals = 0
        self.prefix_hits = 0
        """Number of requests that began as a fork of another's prefix."""

    @property
    def idle(self) -> bool:
        return not self._requests

    @property
    def rows(self) -> int:
        """Number of sequences in the batch. Any thread may ask."""
        return sum(len(one.sequences) for one in self._running())

    @property
    def kv_bytes(self) -> int:
        """Bytes reserved for the requests in the batch. Any thread may ask."""
        return most_bytes(self._runner, [one.request for one in (*self._running(), *self._ended())])

    def add(self, request: Request) -> ScheduledRequest:
        """Queue a request. Raises Refusal if it is larger than the whole batch may be."""
        refuse_too_large(self._runner, self._limits, request)
        self._arrivals += 1
        scheduled = ScheduledRequest(request, self._arrivals)
        self._requests.append(scheduled)
        return scheduled

    def plan(self) -> list[StepItem]:
        """Admit what there is room for and return what the next step appends; empty if nothing is running."""
        if self._held_up < self._most_held_up():
            self._release_ended(keep=self._wanted_sources())
            self._admit()
            self._release_ended(keep=set())
        running = self._running()
        plan_step = mixed_step if self._runner.mixes_steps else separate_step
        items = plan_step(running, self._limits)
        self._held_up = 0 if len(items) == len(running) else self._held_up + 1
        return items

    def proceed(self, scheduled: ScheduledRequest, rows: NextRows) -> None:
        """Fork, reorder or drop the request's sequences so that they match `rows`."""
        parents = [scheduled.sequences[index] for index in rows.beam_idx]
        max_positions = scheduled.request.max_tokens
        # Released before any fork: the request has room for its own rows and no more.
        for sequence in scheduled.sequences:
            if sequence not in parents:
                self._runner.release(sequence)
        kept: list[SequenceId] = []
        for parent in parents:
            kept.append(self._runner.fork(parent, max_positions) if parent in kept else parent)
        scheduled.sequences, scheduled.token_ids = kept, rows.token_ids

    def end(self, scheduled: ScheduledRequest) -> None:
        """Take a request out, whatever its status; the next plan() may still fork its rows."""
        if scheduled.is_running:
            self._move(scheduled, Status.ENDED)
        else:
            self._release(scheduled)

    def drop(self, failed: Iterable[ScheduledRequest]) -> None:
        """Take out of the batch the requests whose step failed; nothing forks them."""
        for scheduled in failed:
            self._release(scheduled)

    # Where requests are

    def _waiting(self) -> list[ScheduledRequest]:
        return [one for one in tuple(self._requests) if one.status is Status.WAITING]

    def _running(self) -> list[ScheduledRequest]:
        return [one for one in tuple(self._requests) if one.is_running]

    def _ended(self) -> list[ScheduledRequest]:
        return [one for one in tuple(self._requests) if one.status is Status.ENDED]

    def _move(self, scheduled: ScheduledRequest, status: Status) -> None:
        """Set a request's status and put it behind the others that have it."""
        self._requests.remove(scheduled)
        scheduled.status = status
        self._requests.append(scheduled)

    def _release_ended(self, keep: set[SequenceId]) -> None:
        """Release the ended requests, except those whose first sequence is in `keep`."""
        for scheduled in self._ended():
            if scheduled.sequences[0] not in keep:
                self._release(scheduled)

    def _release(self, scheduled: ScheduledRequest) -> None:
        for sequence in scheduled.sequences:
            self._runner.release(sequence)
        scheduled.sequences = []
        scheduled.status = Status.RELEASED
        self._requests.remove(scheduled)

    # Admission

    def _most_held_up(self) -> int:
        decodes = any(one.request.has_priority and one.status is Status.DECODING for one in self._requests)
        return MOST_HELD_UP_PRIORITY if decodes else MOST_HELD_UP

    def _admit(self) -> None:
        """Begin what there is room for, in the order of _queue(); only forks may overtake."""
        running, ended = self._running(), self._ended()
        budget = AdmissionBudget(
            self._runner, self._limits, (one.request for one in running), (one.request for one in ended)
        )
        sources = self._sources()
        coming = {one.request.prefix.key for one in running if one.request.prefix} - sources.keys()
        passed_over: list[ScheduledRequest] = []
        for scheduled in self._queue():
            if not budget.has_rows or any(other.overtaken >= MOST_OVERTAKEN for other in passed_over):
                break
            source = self._source_for(scheduled, sources)
            if passed_over and (source is None or any(other.request.has_priority for other in passed_over)):
                continue
            request, prefix = scheduled.request, scheduled.request.prefix
            forked_tokens = prefix.tokens if prefix and source is not None else 0
            is_coming = prefix is not None and prefix.key in coming
            tokens = 0 if is_coming else scheduled.prompt_left - forked_tokens
            if not budget.fits(request, tokens):
                passed_over.append(scheduled)
                continue
            budget.take(request, tokens)
            if is_coming:
                # Its prefix is being computed; the next plan() forks it.
                continue
            self._begin(scheduled, source)
            if prefix and source is None:
                coming.add(prefix.key)
            for other in self._overtaken_by(scheduled, passed_over):
                other.overtaken += 1

    def _queue(self) -> list[ScheduledRequest]:
        """Requests that wait: those overtaken often enough, then those with priority, then the others."""

        def rank(scheduled: ScheduledRequest) -> int:
            if scheduled.overtaken >= MOST_OVERTAKEN:
                return 0
            return 1 if scheduled.request.has_priority else 2

        return sorted(self._waiting(), key=rank)

    def _overtaken_by(
        self, scheduled: ScheduledRequest, passed_over: list[ScheduledRequest]
    ) -> list[ScheduledRequest]:
        """Of the waiting requests, those that came before the one that begins now."""
        if not scheduled.request.has_priority:
            return passed_over
        waiting = self._waiting()
        return [one for one in waiting if one.arrival < scheduled.arrival and not one.request.has_priority]

    def _sources(self) -> dict[bytes, SequenceId]:
        """For each prefix in the batch a sequence that begins with it; ended requests count too."""
        return {
            one.request.prefix.key: one.sequences[0]
            for one in (*self._ended(), *self._running())
            if one.request.prefix and one.prompt_done >= one.request.prefix.tokens
        }

    def _wanted_sources(self) -> set[SequenceId]:
        """The sequences whose prefix a waiting request has."""
        wanted = {one.request.prefix.key for one in self._waiting() if one.request.prefix}
        return {sequence for key, sequence in self._sources().items() if key in wanted}

    def _source_for(self, scheduled: ScheduledRequest, sources: dict[bytes, SequenceId]) -> SequenceId | None:
        """The sequence that a request forks to begin; None if its prompt is computed from scratch."""
        prefix = scheduled.request.prefix
        if prefix is None or prefix.key not in sources:
            return None
        source = sources[prefix.key]
        return source if self._runner.can_fork(source, scheduled.request.max_tokens, prefix.tokens) else None

    def _begin(self, scheduled: ScheduledRequest, source: SequenceId | None) -> None:
        prefix, max_positions = scheduled.request.prefix, scheduled.request.max_tokens
        if prefix and source is not None:
            scheduled.sequences = [self._runner.fork(source, max_positions, prefix.tokens)]
            scheduled.prompt_done = prefix.tokens
            self.prefix_hits += 1
        else:
            scheduled.sequences = [self._runner.begin(max_positions)]
        self._move(scheduled, Status.PREFILLING)
