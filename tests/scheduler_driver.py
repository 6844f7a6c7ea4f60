"""Drives a scheduler a step at a time as the engine's thread does; knows no thread and no model."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.failure import Refusal
from tests.fake_runner import PLENTY, FakeRunner, embed
from worker.engine.request import FloatArray, Generations, Request
from worker.engine.runner import Piece
from worker.engine.scheduler import Flight, Limits, Scheduler, Turn
from worker.engine.search import NextRows


@dataclass(frozen=True)
class Kind:
    """What runners differ in."""

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
        self.outcomes: dict[Flight, Generations | Exception] = {}

    def add(self, *requests: Request) -> list[Flight]:
        return [self.scheduler.add(request) for request in requests]

    def leave(self, flight: Flight) -> None:
        self.scheduler.end(flight)
        self.outcomes[flight] = TimeoutError("cancelled or overdue")

    def step(self) -> list[Turn]:
        """One step → its turns."""
        turns = self.scheduler.plan()
        assert len({turn.flight for turn in turns}) == len(turns), "a flight has one turn"
        if not turns:
            return turns
        try:
            logits = self.runner.step([piece for turn in turns for piece in _pieces(turn)])
        except StepFailedError as error:
            self.scheduler.drop(turn.flight for turn in turns)
            self.outcomes |= {turn.flight: error for turn in turns}
            return turns
        ends = np.cumsum([turn.rows for turn in turns])
        for turn, own in zip(turns, np.split(logits, ends[:-1]), strict=True):
            self._advance(turn, own)
        return turns

    def finish(self, most_steps: int = 10_000) -> None:
        """Steps until nothing is left, the last sequence released."""
        for _ in range(most_steps):
            if self.scheduler.idle:
                break
            self.step()
        assert self.scheduler.idle
        assert self.runner.sequences == {}, "rows leak"

    def _advance(self, turn: Turn, logits: FloatArray) -> None:
        flight = turn.flight
        if turn.prompt is not None:
            flight.prompt_done = turn.prompt.stop
            if flight.prompt_left:
                return
        try:
            found = flight.search.advance(logits)
        except Refusal as refusal:
            self.scheduler.end(flight)
            self.outcomes[flight] = refusal
            return
        if isinstance(found, NextRows):
            self.scheduler.proceed(flight, found)
        else:
            self.scheduler.end(flight)
            self.outcomes[flight] = found


def _pieces(turn: Turn) -> Iterator[Piece]:
    flight = turn.flight
    if turn.prompt is not None:
        [sequence] = flight.sequences
        yield Piece(sequence, flight.request.inputs_embeds[turn.prompt])
        return
    assert flight.token_ids is not None
    for sequence, embeds in zip(flight.sequences, embed(flight.token_ids[:, None]), strict=True):
        yield Piece(sequence, embeds)


def alone(request: Request) -> Generations | Exception:
    """What the request ends in when nothing runs beside it."""
    driver = Driver(FakeRunner())
    [flight] = driver.add(request)
    driver.finish()
    return driver.outcomes[flight]


def same(outcome: object, expected: Generations | Exception) -> bool:
    """Whether a request ended the same: refused for the same reason, or with equal generations."""
    if isinstance(outcome, Refusal) and isinstance(expected, Refusal):
        return outcome.failure == expected.failure
    return outcome == expected
