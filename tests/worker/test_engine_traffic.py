"""Thousands of random requests: limits hold, no row is lost, none starves, and each ends as if alone."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from contract.failure import FailureCode, Refusal
from tests.support.fake_runner import EOS, VOCABULARY, embed, make_request
from tests.support.scheduler_driver import KINDS, Driver, Kind, StepFailedError, alone, same
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Generations, Request
from worker.engine.scheduled_request import ScheduledRequest
from worker.engine.scheduler import MOST_HELD_UP, MOST_OVERTAKEN

PATIENCE_S = 60
REQUESTS = 50
SEEDS = 16


class Traffic:
    """Random limits and requests, small enough that room is short most of the time."""

    def __init__(self, seed: int) -> None:
        self._draw = draw = np.random.default_rng(seed)
        rows = int(draw.integers(2, 9))
        self.limits = Limits(
            kv_bytes=int(draw.integers(40, 120)), rows=rows, step_tokens=int(draw.integers(max(rows, 8), 48))
        )
        self._fail_chance = draw.choice([0.0, 0.0, 0.02])
        self._priority_chance = draw.choice([0.0, 0.2, 0.6])
        sizes = draw.integers(2, 13, size=4)
        self._prefixes = [tuple(draw.integers(100, 900, size=size).tolist()) for size in sizes]
        self._arrivals = np.cumsum(draw.choice([0, 0, 0, 1, 3, 10], size=REQUESTS)).tolist()
        self.requests = [self._request() for _ in range(REQUESTS)]
        self._stays = [int(draw.integers(25)) if draw.random() < 0.2 else None for _ in range(REQUESTS)]
        self.failures = 0

    def fail_at_times(self) -> None:
        if self._draw.random() < self._fail_chance:
            self.failures += 1
            raise StepFailedError

    @property
    def last_arrival(self) -> int:
        return int(self._arrivals[-1])

    @property
    def most_steps(self) -> int:
        """Until all have ended, if they did so one after the other."""
        return self.last_arrival + sum(most_steps(request, self.limits) for request in self.requests)

    def arriving(self, step: int) -> list[tuple[Request, int | None]]:
        """The requests of this step, each with the steps until it is cancelled or overdue, if it is."""
        return [
            (request, stays)
            for request, stays, arrival in zip(self.requests, self._stays, self._arrivals, strict=True)
            if arrival == step
        ]

    def _request(self) -> Request:
        draw = self._draw
        prefix = self._prefixes[draw.integers(4)] if draw.random() < 0.7 else ()
        rest = draw.integers(1, VOCABULARY, size=draw.integers(1, 10)).tolist()
        eos_token_ids = (EOS,) if draw.random() < 0.7 else ()
        has_priority = bool(draw.random() < self._priority_chance)
        return make_request(
            [*prefix, *rest],
            shared=len(prefix),
            eos_token_ids=eos_token_ids,
            has_priority=has_priority,
            **self._how(),
        )

    def _how(self) -> dict[str, Any]:
        """Greedy search, beam search, sampling or choices."""
        draw = self._draw
        length = {"max_new_tokens": int(draw.integers(1, 13))}
        match draw.integers(4):
            case 0:
                return length
            case 1:
                beams = int(draw.integers(2, 5))
                return length | {
                    "num_beams": beams,
                    "num_return_sequences": int(draw.integers(1, beams + 1)),
                    "early_stopping": [True, False, "never"][draw.integers(3)],
                    "length_penalty": float(draw.choice([0.0, 1.0, 2.0])),
                }
            case 2:
                return length | {
                    "do_sample": True,
                    "seed": int(draw.integers(99)),
                    "num_return_sequences": int(draw.integers(1, 5)),
                }
            case _:
                sizes = draw.integers(1, 5, size=draw.integers(2, 5))
                return {"choices": tuple(tuple(draw.integers(1, 5, size=size).tolist()) for size in sizes)}


class Watch:
    """Counts for each request its steps in the batch, and the later ones admitted before it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: list[ScheduledRequest] = []
        self._steps: dict[ScheduledRequest, int] = {}
        self.most_overtaken = 0
        self._overtaken: dict[ScheduledRequest, int] = {}

    def arrived(self, scheduled: ScheduledRequest) -> None:
        self._waiting.append(scheduled)
        self._overtaken[scheduled] = 0

    def left(self, scheduled: ScheduledRequest) -> None:
        if scheduled in self._waiting:
            self._waiting.remove(scheduled)

    def stepped(self, ended: dict[ScheduledRequest, Generations | Exception]) -> None:
        admitted = {scheduled for scheduled in self._waiting if scheduled.sequences or scheduled in ended}
        earlier = 0
        for scheduled in reversed(self._waiting):
            if scheduled in admitted:
                self._steps[scheduled] = 0
                earlier += 1
            else:
                self._overtaken[scheduled] += earlier
                self.most_overtaken = max(self.most_overtaken, self._overtaken[scheduled])
        self._waiting = [scheduled for scheduled in self._waiting if scheduled not in admitted]
        for scheduled in self._steps.keys() - ended.keys():
            self._steps[scheduled] += 1
            assert self._steps[scheduled] <= most_steps(scheduled.request, self._limits), (
                "a request is held up"
            )


def most_steps(request: Request, limits: Limits) -> int:
    """From admission to the end: one step for each position, held up before each by the prompts of others."""
    return request.max_tokens * (MOST_HELD_UP + limits.rows + 1)


def add(driver: Driver, request: Request) -> ScheduledRequest | None:
    """Its scheduled, or None if it is refused, as far larger than the limits as some are."""
    try:
        [scheduled] = driver.add(request)
    except Refusal:
        return None
    return scheduled


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_random_traffic_ends_within_its_limits_and_as_if_alone(kind: Kind, seed: int) -> None:
    traffic = Traffic(seed)
    driver = Driver(kind.runner(traffic.limits, seed, on_step=traffic.fail_at_times), traffic.limits)
    watch = Watch(traffic.limits)
    added: list[ScheduledRequest] = []
    leaving: dict[int, list[ScheduledRequest]] = {}
    for step in range(traffic.most_steps):
        for request, stays in traffic.arriving(step):
            scheduled = add(driver, request)
            if scheduled is None:
                continue
            added.append(scheduled)
            watch.arrived(scheduled)
            if stays is not None:
                leaving.setdefault(step + stays, []).append(scheduled)
        for scheduled in leaving.pop(step, []):
            if scheduled not in driver.outcomes:
                driver.leave(scheduled)
                watch.left(scheduled)
        driver.step()
        watch.stepped(driver.outcomes)
        if step > traffic.last_arrival and driver.scheduler.idle:
            break
    driver.finish(most_steps=0)
    assert driver.outcomes.keys() == set(added), "every request ends"
    # A request whose prefix is being computed waits for it for a step, and for another if that step fails.
    assert watch.most_overtaken <= MOST_OVERTAKEN + (1 + traffic.failures) * traffic.limits.rows
    for scheduled in added:
        outcome = driver.outcomes[scheduled]
        if not isinstance(outcome, TimeoutError | StepFailedError):
            assert same(outcome, alone(scheduled.request)), "neighbours make no difference"


class Ticks:
    """A clock that advances by one each time it is read; the engine reads it before each step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def submit(engine: Engine, requests: Iterable[Request], clock: Ticks) -> list[Future[Generations]]:
    """Some with a deadline, some cancelled when others have been submitted after them."""
    futures: list[Future[Generations]] = []
    for number, request in enumerate(requests):
        asked = replace(request, deadline=clock.now + 20) if number % 7 == 3 else request
        futures.append(engine.submit(asked))
        if number % 5 == 4:
            futures[number - 4].cancel()
    return futures


def outcome_of(future: Future[Generations]) -> Generations | BaseException | None:
    """None if it was cancelled."""
    assert wait([future], timeout=PATIENCE_S).done, "every request ends"
    return None if future.cancelled() else future.exception() or future.result()


def is_let_go(outcome: Generations | BaseException | None) -> bool:
    """Whether it ended before it could be answered, for no reason in the request itself."""
    if isinstance(outcome, Refusal):
        return outcome.failure.code in (FailureCode.EXCEEDS_CAPACITY, FailureCode.DEADLINE_EXCEEDED)
    return outcome is None or isinstance(outcome, StepFailedError)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_threads_get_from_one_engine_what_each_request_gives_alone(kind: Kind) -> None:
    traffic = [Traffic(seed) for seed in range(100, 104)]
    limits, clock = traffic[0].limits, Ticks()
    runner = kind.runner(limits, on_step=traffic[0].fail_at_times)
    engine = Engine(runner, embed, limits, clock)
    with ThreadPoolExecutor(len(traffic)) as threads:
        submitting = [threads.submit(submit, engine, each.requests, clock) for each in traffic]
    outcomes = [[outcome_of(future) for future in futures.result()] for futures in submitting]
    engine.close()
    assert runner.sequences == {}, "rows leak"
    answered = [
        (request, outcome)
        for each, own in zip(traffic, outcomes, strict=True)
        for request, outcome in zip(each.requests, own, strict=True)
        if not is_let_go(outcome)
    ]
    assert len(answered) > REQUESTS
    assert all(same(outcome, alone(request)) for request, outcome in answered)
