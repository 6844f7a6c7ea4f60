"""The engine on deadlines, cancelling, failing, closing and dying, with a runner without a model."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import replace
from typing import Any

import pytest

from contract.failure import FailureCode, Refusal
from tests.support.fake_runner import (
    EOS,
    PLENTY,
    POISON,
    VOCABULARY,
    FakeRunner,
    counting,
    embed,
    make_request,
)
from tests.support.scheduler_driver import alone
from worker.engine.admission import Limits
from worker.engine.inbox import EngineStoppedError
from worker.engine.loop import Engine
from worker.engine.request import FloatArray, Generation, Generations, IntArray, Request
from worker.engine.runner import SequenceId, SequenceInput

PATIENCE_S = 20
ONE_ROW = Limits(kv_bytes=10**6, rows=1, step_tokens=64)


class Gate:
    """Announces each step and waits until it is let through."""

    def __init__(self) -> None:
        self._entered = threading.Semaphore(0)
        self._let_through = threading.Semaphore(0)

    def __call__(self) -> None:
        self._entered.release()
        assert self._let_through.acquire(timeout=PATIENCE_S)

    def await_step(self) -> None:
        """Returns inside the next step."""
        assert self._entered.acquire(timeout=PATIENCE_S)

    def open(self, steps: int = 1000) -> None:
        self._let_through.release(steps)


class UnreleasableRunner(FakeRunner):
    """Fails to release its sequences."""

    def release(self, sequence: SequenceId) -> None:  # noqa: ARG002 - the protocol's
        raise RuntimeError("state is stuck")


class Clock:
    """Stands still until it is set, and counts how often it is read."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now_s


class Device:
    """Knows whether it is held, and how often it was."""

    def __init__(self) -> None:
        self.held = False
        self.times = 0

    def __enter__(self) -> None:
        self.held = True
        self.times += 1

    def __exit__(self, *error: object) -> None:
        self.held = False


def counts_from(start: int, **options: Any) -> Request:
    """Ends after 16 - start tokens: those up to 15, and the end of sequence."""
    return make_request([50, start], **options)


def up_from(start: int) -> tuple[int, ...]:
    return (*range(start + 1, VOCABULARY), EOS)


def tokens_of(future: Future[Generations]) -> tuple[int, ...]:
    [generation] = future.result(timeout=PATIENCE_S)
    return generation.token_ids


def fail() -> None:
    raise MemoryError("no memory for this step")


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def test_requests_run_together_in_one_thread(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, PLENTY)
    first = engine.submit(counts_from(13))
    gate.await_step()
    others = [engine.submit(counts_from(12, num_beams=2)), engine.submit(counts_from(14))]
    gate.open()
    assert [tokens_of(future) for future in (first, *others)] == [up_from(13), up_from(12), up_from(14)]
    assert [future.result()[0].finish_reason for future in others] == ["stop", "stop"]
    engine.close()
    assert runner.steps[:2] == [[[50, 13]], [[50, 12], [50, 14]]]
    assert len(runner.steps[2]) == 4, "a row of the first, two beams of the second, a row of the third"
    assert runner.sequences == {}
    assert {thread.name for thread in runner.threads} == {"captionmill-engine"}
    assert not any(thread.is_alive() for thread in runner.threads)


def test_length_ends_a_request() -> None:
    engine = Engine(FakeRunner(counting), embed, PLENTY)
    [generation] = engine.submit(counts_from(4, max_new_tokens=3)).result(timeout=PATIENCE_S)
    engine.close()
    assert (generation.token_ids, generation.finish_reason) == ((5, 6, 7), "length")


def test_what_can_never_fit_is_refused_through_its_future() -> None:
    engine = Engine(FakeRunner(counting), embed, ONE_ROW)
    with pytest.raises(Refusal) as refused:
        engine.submit(counts_from(4, num_beams=2)).result(timeout=PATIENCE_S)
    assert refused.value.failure.code is FailureCode.EXCEEDS_CAPACITY
    assert tokens_of(engine.submit(counts_from(13))) == up_from(13)
    engine.close()


def test_the_device_is_held_for_each_step_and_not_while_idle() -> None:
    device = Device()
    held: list[bool] = []

    def embed_with_it(token_ids: IntArray) -> FloatArray:
        assert device.held
        return embed(token_ids)

    runner = FakeRunner(counting, on_step=lambda: held.append(device.held))
    engine = Engine(runner, embed_with_it, PLENTY, computing=lambda _: device)
    assert tokens_of(engine.submit(counts_from(13))) == up_from(13)
    engine.close()
    assert held == [True] * 3
    assert not device.held
    # Once more for what had ended to be released.
    assert device.times in (3, 4)


def test_what_arrives_while_the_device_is_waited_for_joins_the_step() -> None:
    device = threading.Lock()
    runner = FakeRunner(counting, mixes_steps=True)
    engine = Engine(runner, embed, PLENTY, computing=lambda _: device)
    with device:
        futures = [engine.submit(counts_from(n)) for n in (11, 12, 13)]
    assert [tokens_of(future) for future in futures] == [up_from(n) for n in (11, 12, 13)]
    engine.close()
    assert len(runner.steps[0]) == 3


def test_steps_and_positions_are_counted() -> None:
    engine = Engine(FakeRunner(counting), embed, PLENTY)
    assert tokens_of(engine.submit(counts_from(13))) == up_from(13)
    engine.close()
    assert (engine.times.steps, engine.times.positions) == (3, 2 + 1 + 1)
    assert engine.times.runner_s > 0
    assert engine.times.between_s > 0


def test_an_idle_engine_does_nothing() -> None:
    clock = Clock()
    engine = Engine(FakeRunner(counting), embed, PLENTY, clock)
    time.sleep(0.05)
    engine.close()
    assert clock.reads == 0


# Deadlines


def test_a_deadline_that_has_come_is_refused_before_the_prefill() -> None:
    runner = FakeRunner(counting)
    engine = Engine(runner, embed, PLENTY, clock=Clock())
    late = engine.submit(counts_from(4, deadline=100.0))
    with pytest.raises(Refusal) as refused:
        late.result(timeout=PATIENCE_S)
    assert refused.value.failure.code is FailureCode.DEADLINE_EXCEEDED
    assert runner.steps == []
    assert tokens_of(engine.submit(counts_from(14, deadline=100.5))) == up_from(14)
    engine.close()


def test_a_deadline_ends_a_waiting_request_that_never_began(gate: Gate) -> None:
    clock, runner = Clock(), FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, ONE_ROW, clock=clock)
    running = engine.submit(counts_from(4))
    gate.await_step()
    overdue, following = engine.submit(counts_from(5, deadline=101.0)), engine.submit(counts_from(14))
    gate.open(1)
    gate.await_step()
    clock.now_s = 101.0
    gate.open(1)
    gate.await_step()
    with pytest.raises(Refusal, match="deadline"):
        overdue.result(timeout=PATIENCE_S)
    assert running.running(), "it need not wait for the end of those before it"
    gate.open()
    assert (tokens_of(running), tokens_of(following)) == (up_from(4), up_from(14))
    engine.close()
    assert [50, 5] not in [piece for step in runner.steps for piece in step]


def test_a_deadline_ends_a_running_request_at_its_next_step(gate: Gate) -> None:
    clock, runner = Clock(), FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, PLENTY, clock=clock)
    overdue = engine.submit(counts_from(4, deadline=101.0))
    gate.await_step()
    neighbour = engine.submit(counts_from(12))
    gate.open(2)
    for _ in range(2):
        gate.await_step()
    clock.now_s = 102.0
    gate.open()
    with pytest.raises(Refusal, match="deadline"):
        overdue.result(timeout=PATIENCE_S)
    assert tokens_of(neighbour) == up_from(12)
    engine.close()
    assert runner.steps == [[[50, 4]], [[50, 12]], [[5], [13]], [[14]], [[15]]]
    assert runner.sequences == {}


# Cancelling


def test_a_cancelled_request_never_starts(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, ONE_ROW)
    running, cancelled, following = (engine.submit(counts_from(start)) for start in (14, 4, 13))
    gate.await_step()
    assert cancelled.cancel()
    gate.open()
    assert (tokens_of(running), tokens_of(following)) == (up_from(14), up_from(13))
    engine.close()
    assert [step for step in runner.steps if len(step[0]) == 2] == [[[50, 14]], [[50, 13]]]


def test_a_running_request_is_cancelled_at_its_next_step(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, ONE_ROW)
    running, following = engine.submit(counts_from(4)), engine.submit(counts_from(14))
    gate.await_step()
    assert (running.running(), following.running()) == (True, False)
    assert running.cancel()
    assert not running.running()
    gate.open()
    assert wait([running], timeout=PATIENCE_S).done == {running}, "those who wait for several are told"
    with pytest.raises(CancelledError):
        running.result(timeout=PATIENCE_S)
    assert tokens_of(following) == up_from(14)
    engine.close()
    assert runner.steps == [[[50, 4]], [[50, 14]], [[15]]]


# Asked to stop


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}])
def test_a_request_asked_to_stop_ends_at_its_next_step_with_what_it_has(
    gate: Gate, options: dict[str, Any]
) -> None:
    whole = alone(make_request([50, 4], eos_token_ids=(), max_new_tokens=3, **options))
    stop = threading.Event()
    engine = Engine(FakeRunner(on_step=gate), embed, PLENTY)
    request = make_request([50, 4], eos_token_ids=(), max_new_tokens=50, stop_asked=stop.is_set, **options)
    future = engine.submit(request)
    for step in range(3):
        gate.await_step()
        if step == 2:
            stop.set()
        gate.open(1)
    [found] = future.result(timeout=PATIENCE_S)
    engine.close()
    assert isinstance(whole, tuple)
    assert replace(found, finish_reason="length") == whole[0]
    assert found.finish_reason == "stop"


def test_a_request_asked_to_stop_before_it_begins_ends_with_nothing(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, ONE_ROW)
    running = engine.submit(counts_from(13))
    gate.await_step()
    stopped = engine.submit(counts_from(4, stop_asked=lambda: True))
    gate.open()
    assert stopped.result(timeout=PATIENCE_S) == (Generation((), "stop", 0.0, 0.0),)
    assert tokens_of(running) == up_from(13)
    engine.close()
    assert runner.count_of(4) == 0


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"choices": ((1,), (2,))}, {"choices": ((1,),)}])
def test_only_a_request_of_one_row_can_be_asked_to_stop(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="one row"):
        counts_from(4, stop_asked=lambda: True, **options)


# Tokens as they come


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "seed": 3}])
def test_tokens_are_told_once_each_in_order_at_every_step(gate: Gate, options: dict[str, Any]) -> None:
    told: list[Sequence[int]] = []
    engine = Engine(FakeRunner(on_step=gate), embed, PLENTY)
    request = make_request([50, 4], eos_token_ids=(), max_new_tokens=4, on_tokens=told.append, **options)
    future = engine.submit(request)
    lengths = []
    for _ in range(4):
        gate.await_step()
        lengths.append(len(told))
        gate.open(1)
    found = tokens_of(future)
    engine.close()
    assert tuple(token for tokens in told for token in tokens) == found
    assert lengths == [0, 1, 2, 3]
    assert [len(tokens) for tokens in told] == [1] * 4


@pytest.mark.parametrize("last", [5, EOS])
def test_an_error_of_on_tokens_ends_its_request_alone(gate: Gate, last: int) -> None:
    def interrupt(tokens: Sequence[int]) -> None:
        if tokens[-1] == last:
            raise BrokenPipeError("nobody listens")

    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, PLENTY)
    neighbour = engine.submit(counts_from(2))
    gate.await_step()
    deaf = engine.submit(counts_from(3, on_tokens=interrupt))
    gate.open()
    with pytest.raises(BrokenPipeError, match="nobody listens"):
        deaf.result(timeout=PATIENCE_S)
    assert tokens_of(neighbour) == up_from(2)
    engine.close()
    assert runner.sequences == {}


# Failing


def test_a_search_that_fails_ends_its_request_alone(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, PLENTY)
    first = engine.submit(counts_from(2))
    gate.await_step()
    poisoned, other = engine.submit(make_request([POISON, 4])), engine.submit(counts_from(5))
    gate.open()
    with pytest.raises(FloatingPointError):
        poisoned.result(timeout=PATIENCE_S)
    assert (tokens_of(first), tokens_of(other)) == (up_from(2), up_from(5))
    engine.close()
    assert [[50, 5], [POISON, 4]] in [sorted(step) for step in runner.steps]
    assert runner.sequences == {}


def test_a_step_that_fails_ends_those_in_it_alone(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, PLENTY)
    steady = engine.submit(counts_from(2))
    gate.await_step()
    failing = [engine.submit(counts_from(start)) for start in (3, 4)]
    runner.on_step = fail  # of the next step, which is for the two prompts alone
    failing[1].add_done_callback(lambda _: setattr(runner, "on_step", gate))
    gate.open()
    for future in failing:
        with pytest.raises(MemoryError, match="this step"):
            future.result(timeout=PATIENCE_S)
    later = engine.submit(counts_from(14))
    assert (tokens_of(steady), tokens_of(later)) == (up_from(2), up_from(14))
    engine.close()
    assert runner.sequences == {}


def test_tokens_that_cannot_be_embedded_fail_their_step() -> None:
    def refuse_9(token_ids: IntArray) -> FloatArray:
        if 9 in token_ids:
            raise ValueError("no embedding for 9")
        return embed(token_ids)

    runner = FakeRunner(counting)
    engine = Engine(runner, refuse_9, PLENTY)
    with pytest.raises(ValueError, match="for 9"):
        engine.submit(counts_from(6)).result(timeout=PATIENCE_S)
    assert tokens_of(engine.submit(counts_from(12))) == up_from(12)
    engine.close()
    assert runner.sequences == {}


# The end


def test_close_finishes_what_runs_and_cancels_what_waits(gate: Gate) -> None:
    runner = FakeRunner(counting, on_step=gate)
    engine = Engine(runner, embed, ONE_ROW)
    running, waiting = engine.submit(counts_from(13)), engine.submit(counts_from(4))
    gate.await_step()
    arrived = engine.submit(counts_from(5))
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open()
    assert wait([waiting, arrived], timeout=PATIENCE_S).done == {waiting, arrived}
    for future in (waiting, arrived):
        with pytest.raises(CancelledError):
            future.result(timeout=PATIENCE_S)
    assert tokens_of(running) == up_from(13)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    with pytest.raises(EngineStoppedError, match="closed"):
        engine.submit(counts_from(4))
    engine.close()
    assert runner.steps == [[[50, 13]], [[14]], [[15]]]
    assert runner.sequences == {}


def test_a_dead_engine_fails_all_that_wait_and_every_later_submit(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(UnreleasableRunner(counting, on_step=gate), embed, ONE_ROW)
    futures = [engine.submit(counts_from(14)) for _ in range(3)]
    gate.await_step()
    futures += [engine.submit(counts_from(14))]
    gate.open()
    assert tokens_of(futures.pop(0)) == up_from(14), "what ended before is not lost"
    for future in futures:
        with pytest.raises(EngineStoppedError) as stopped:
            future.result(timeout=PATIENCE_S)
        assert "state is stuck" in str(stopped.value.__cause__)
    with pytest.raises(EngineStoppedError) as stopped:
        engine.submit(counts_from(14))
    assert "state is stuck" in str(stopped.value.__cause__)
    engine.close()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_what_was_cancelled_before_a_death_is_told(gate: Gate) -> None:
    class Dying(FakeRunner):
        """Dies in the first step, at once."""

        def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
            super().step(inputs)
            raise SystemExit

    engine = Engine(Dying(counting, on_step=gate), embed, ONE_ROW)
    running, cancelled = engine.submit(counts_from(4)), engine.submit(counts_from(5))
    gate.await_step()
    assert cancelled.cancel()
    gate.open()
    assert wait([running, cancelled], timeout=PATIENCE_S).not_done == set()
    with pytest.raises(EngineStoppedError):
        running.result(timeout=PATIENCE_S)
    assert cancelled.cancelled()
    engine.close()
