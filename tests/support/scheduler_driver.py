"""Drives a scheduler a step at a time as the engine's thread does; knows no thread and no model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.failure import Refusal
from tests.support.fake_runner import PLENTY, FakeRunner, embed
from worker.engine.admission import Limits
from worker.engine.request import FloatArray, Generations, Request
from worker.engine.runner import SequenceInput
from worker.engine.scheduled_request import ScheduledRequest, StepItem
from worker.engine.scheduler import Scheduler
from worker.engine.search import NextRows


@dataclass(frozen=True)
class Kind:
    """Properties in which runners differ."""

    shares_prefixes: bool
    mixes_steps: bool
    block_positions: int = 1
    fork_chance: float = 1.0

    def runner(self, limits: Limits = PLENTY, seed: int = 0, **options: Any) -> FakeRunner:
        draw = np.random.default_rng(seed)
        return FakeRunner(
            limits=limits,
            shares_prefixes=self.shares_prefixes,
            mixes_steps=self.mixes_steps,
            block_positions=self.block_positions,
            may_fork=lambda: bool(draw.random() < self.fork_chance),
            **options,
        )


SEPARATE = Kind(shares_prefixes=False, mixes_steps=False)
MIXED = Kind(shares_prefixes=True, mixes_steps=True)
KINDS = {
    "stateful": SEPARATE,
    "stateful, forks refused at times": Kind(shares_prefixes=False, mixes_steps=False, fork_chance=0.5),
    "copies, mixes": Kind(shares_prefixes=False, mixes_steps=True, fork_chance=0.8),
    "shares, does not mix": Kind(shares_prefixes=True, mixes_steps=False),
    "paged": MIXED,
    "paged in blocks": Kind(shares_prefixes=True, mixes_steps=True, block_positions=4),
}


class StepFailedError(Exception):
    """What a fake step raises on purpose."""


class Driver:
    """What the engine's thread does, a step at a time: plan, compute, advance."""

    def __init__(self, runner: FakeRunner, limits: Limits = PLENTY) -> None:
        self.runner = runner
        self.scheduler = Scheduler(runner, limits)
        self.outcomes: dict[ScheduledRequest, Generations | Exception] = {}

    def add(self, *requests: Request) -> list[ScheduledRequest]:
        return [self.scheduler.add(request) for request in requests]

    def leave(self, scheduled: ScheduledRequest) -> None:
        self.scheduler.end(scheduled)
        self.outcomes[scheduled] = TimeoutError("cancelled or overdue")

    def step(self) -> list[StepItem]:
        """One step → its items."""
        items = self.scheduler.plan()
        assert len({item.scheduled for item in items}) == len(items), "a request has one item"
        if not items:
            return items
        try:
            logits = self.runner.step([one for item in items for one in _inputs(item)])
        except StepFailedError as error:
            self.scheduler.drop(item.scheduled for item in items)
            self.outcomes |= {item.scheduled: error for item in items}
            return items
        ends = np.cumsum([item.rows for item in items])
        for item, own in zip(items, np.split(logits, ends[:-1]), strict=True):
            self._advance(item, own)
        return items

    def finish(self, most_steps: int = 10_000) -> None:
        """Steps until nothing is left, the last sequence released."""
        for _ in range(most_steps):
            if self.scheduler.idle:
                break
            self.step()
        assert self.scheduler.idle
        assert self.runner.sequences == {}, "rows leak"

    def _advance(self, item: StepItem, logits: FloatArray) -> None:
        scheduled = item.scheduled
        scheduled.count(item.prompt)
        if scheduled.prompt_left:
            return
        try:
            found = scheduled.search.advance(logits)
        except Refusal as refusal:
            self.scheduler.end(scheduled)
            self.outcomes[scheduled] = refusal
            return
        if isinstance(found, NextRows):
            self.scheduler.proceed(scheduled, found)
        else:
            self.scheduler.end(scheduled)
            self.outcomes[scheduled] = found


def _inputs(item: StepItem) -> Iterator[SequenceInput]:
    scheduled = item.scheduled
    if item.prompt is not None:
        [sequence] = scheduled.sequences
        yield SequenceInput(sequence, scheduled.request.inputs_embeds[item.prompt])
        return
    assert scheduled.token_ids is not None
    for sequence, embeds in zip(scheduled.sequences, embed(scheduled.token_ids[:, None]), strict=True):
        yield SequenceInput(sequence, embeds)


def alone(request: Request) -> Generations | Exception:
    """The outcome of the request when nothing runs beside it."""
    driver = Driver(FakeRunner())
    [scheduled] = driver.add(request)
    driver.finish()
    return driver.outcomes[scheduled]


def same(outcome: object, expected: Generations | Exception) -> bool:
    """Whether two requests ended equally: refused for the same reason, or with equal generations."""
    if isinstance(outcome, Refusal) and isinstance(expected, Refusal):
        return outcome.failure == expected.failure
    return outcome == expected
