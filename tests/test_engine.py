"""The engine's promises on deadlines, cancelling, failing, closing and dying, kept on a scripted runner."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import numpy as np
import pytest

from contract.failure import FailureCode, Refusal
from worker.engine.loop import Engine, EngineStoppedError
from worker.engine.request import FloatArray, Generation, IntArray, Request

VOCABULARY = 16
EOS = 0
PATIENCE_S = 20


class CountingRunner:
    """A Runner whose rows count upwards: after a row that was fed token t, t + 1 is the most probable token.

    It keeps each row's tokens, so that rows left behind show. A token is embedded as itself.
    """

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.prefills: list[list[int]] = []
        self.releases = 0
        self.steps = 0
        self.threads: set[threading.Thread] = set()

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        assert self.rows == [], "rows of an earlier prefill were not released"
        self.rows = inputs_embeds[:, :, 0].astype(int).tolist()
        self.prefills.append(self.rows[0])
        return self._logits()

    def decode(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        tokens = inputs_embeds[:, 0, 0].astype(int).tolist()
        self.rows = [[*self.rows[index], token] for index, token in zip(beam_idx, tokens, strict=True)]
        return self._logits()

    def release(self) -> None:
        self.rows = []
        self.releases += 1

    def _logits(self) -> FloatArray:
        self.steps += 1
        self.threads.add(threading.current_thread())
        logits = np.zeros((len(self.rows), VOCABULARY), np.float32)
        for row, tokens in enumerate(self.rows):
            logits[row, (tokens[-1] + 1) % VOCABULARY] = 5.0
        return logits


class GatedRunner(CountingRunner):
    """Announces each step and waits until it is let through."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.let_through = threading.Semaphore(0)

    def _logits(self) -> FloatArray:
        self.entered.release()
        assert self.let_through.acquire(timeout=PATIENCE_S)
        return super()._logits()


class FailingRunner(CountingRunner):
    """Fails at the decode that feeds the token 9."""

    def decode(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        logits = super().decode(inputs_embeds, beam_idx)
        if any(tokens[-1] == 9 for tokens in self.rows):
            raise MemoryError("no memory for token 9")
        return logits


class UnreleasableRunner(GatedRunner):
    """Cannot forget its rows."""

    def release(self) -> None:
        raise RuntimeError("state is stuck")


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def embed(token_ids: IntArray) -> FloatArray:
    return token_ids[:, :, None].astype(np.float32)


def make_request(*prompt: int, max_new_tokens: int = 20, **parameters: Any) -> Request:
    embeds = np.array(prompt, np.float32)[:, None]
    return Request(inputs_embeds=embeds, max_new_tokens=max_new_tokens, eos_token_ids=(EOS,), **parameters)


def tokens_of(future: Future[Generation]) -> tuple[int, ...]:
    return future.result(timeout=PATIENCE_S).token_ids


@pytest.fixture
def gated() -> Iterator[tuple[Engine, GatedRunner]]:
    runner = GatedRunner()
    engine = Engine(runner, embed)
    yield engine, runner
    runner.let_through.release(1000)
    engine.close()


def test_requests_are_answered_one_after_another_in_one_thread() -> None:
    runner = CountingRunner()
    engine = Engine(runner, embed)
    futures = [
        engine.submit(make_request(3, start, num_beams=beams)) for start in (11, 13) for beams in (1, 4)
    ]
    to_zero = {11: (12, 13, 14, 15, EOS), 13: (14, 15, EOS)}
    assert [tokens_of(future) for future in futures] == [to_zero[11], to_zero[11], to_zero[13], to_zero[13]]
    assert {future.result().finish_reason for future in futures} == {"stop"}
    engine.close()
    assert runner.prefills == [[3, 11], [3, 11], [3, 13], [3, 13]], "one prefill of one row each"
    assert runner.rows == []
    assert runner.releases == 4
    assert {thread.name for thread in runner.threads} == {"captionmill-engine"}
    assert not any(thread.is_alive() for thread in runner.threads)


def test_length_ends_a_request() -> None:
    engine = Engine(CountingRunner(), embed)
    generation = engine.submit(make_request(4, max_new_tokens=3)).result(timeout=PATIENCE_S)
    engine.close()
    assert (generation.token_ids, generation.finish_reason) == ((5, 6, 7), "length")


def test_a_deadline_that_has_come_is_refused_before_the_prefill() -> None:
    runner = CountingRunner()
    engine = Engine(runner, embed, clock=Clock())
    late = engine.submit(make_request(4, deadline=100.0))
    with pytest.raises(Refusal) as refused:
        late.result(timeout=PATIENCE_S)
    assert refused.value.failure.code is FailureCode.DEADLINE_EXCEEDED
    assert runner.prefills == []
    assert tokens_of(engine.submit(make_request(14, deadline=100.5))) == (15, EOS)
    engine.close()


def test_a_deadline_ends_a_running_request_at_its_next_step() -> None:
    clock, runner = Clock(), GatedRunner()
    engine = Engine(runner, embed, clock=clock)
    overdue = engine.submit(make_request(4, deadline=101.0))
    following = engine.submit(make_request(14))
    runner.let_through.release()
    for _ in range(2):
        assert runner.entered.acquire(timeout=PATIENCE_S)
    clock.now_s = 102.0  # inside the second step
    runner.let_through.release(1000)
    with pytest.raises(Refusal):
        overdue.result(timeout=PATIENCE_S)
    assert tokens_of(following) == (15, EOS)
    engine.close()
    assert runner.steps == 2 + 2, "two of the overdue request, two of the other"


def test_a_cancelled_request_never_starts(gated: tuple[Engine, GatedRunner]) -> None:
    engine, runner = gated
    running, cancelled, following = (engine.submit(make_request(start)) for start in (14, 4, 13))
    assert runner.entered.acquire(timeout=PATIENCE_S)
    assert cancelled.cancel()
    runner.let_through.release(1000)
    assert tokens_of(running) == (15, EOS)
    assert tokens_of(following) == (14, 15, EOS)
    assert runner.prefills == [[14], [13]]


def test_a_running_request_is_cancelled_at_its_next_step(gated: tuple[Engine, GatedRunner]) -> None:
    engine, runner = gated
    running, following = engine.submit(make_request(4)), engine.submit(make_request(14))
    assert runner.entered.acquire(timeout=PATIENCE_S)
    assert (running.running(), following.running()) == (True, False)
    assert running.cancel()
    assert not running.running()
    runner.let_through.release(1000)
    assert wait([running], timeout=PATIENCE_S).done == {running}, (
        "those who wait for several are told as well"
    )
    with pytest.raises(CancelledError):
        running.result(timeout=PATIENCE_S)
    assert tokens_of(following) == (15, EOS)
    assert runner.prefills == [[4], [14]]
    assert runner.steps == 1 + 2, "the cancelled request's prefill, two of the other"


def test_a_failing_request_keeps_its_error_and_harms_no_other() -> None:
    runner = FailingRunner()
    engine = Engine(runner, embed)
    before, failing, after = (engine.submit(make_request(start)) for start in (12, 6, 11))
    assert tokens_of(before) == (13, 14, 15, EOS)
    with pytest.raises(MemoryError, match="token 9"):
        failing.result(timeout=PATIENCE_S)
    assert tokens_of(after) == (12, 13, 14, 15, EOS)
    assert tokens_of(engine.submit(make_request(14))) == (15, EOS)
    engine.close()


def test_close_finishes_what_runs_and_cancels_what_waits(gated: tuple[Engine, GatedRunner]) -> None:
    engine, runner = gated
    running, waiting = engine.submit(make_request(13)), engine.submit(make_request(4))
    assert runner.entered.acquire(timeout=PATIENCE_S)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert wait([waiting], timeout=PATIENCE_S).done == {waiting}, (
        "those who wait for several are told as well"
    )
    with pytest.raises(CancelledError):
        waiting.result(timeout=PATIENCE_S)
    with pytest.raises(EngineStoppedError, match="closed"):
        engine.submit(make_request(4))
    runner.let_through.release(1000)
    assert tokens_of(running) == (14, 15, EOS)
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert runner.prefills == [[13]]


def test_a_dead_engine_fails_all_that_wait_and_every_later_submit(caplog: pytest.LogCaptureFixture) -> None:
    runner = UnreleasableRunner()
    engine = Engine(runner, embed)
    futures = [engine.submit(make_request(14)) for _ in range(3)]
    runner.let_through.release(1000)
    for future in futures:
        with pytest.raises(EngineStoppedError) as stopped:
            future.result(timeout=PATIENCE_S)
        assert "state is stuck" in str(stopped.value.__cause__)
    with pytest.raises(EngineStoppedError) as stopped:
        engine.submit(make_request(14))
    assert "state is stuck" in str(stopped.value.__cause__)
    engine.close()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
