"""What fits an admission budget, request by request, without a scheduler."""

import pytest

from tests.support.fake_runner import FakeRunner, make_request
from worker.engine.admission import AdmissionBudget, Limits
from worker.engine.request import Request

SEPARATE = FakeRunner()
MIXED = FakeRunner(shares_prefixes=True, mixes_steps=True)
PROMPT = [50, 1]
TOKENS = len(PROMPT)
BYTES = make_request(PROMPT).max_tokens
"""What one row of a request fills of the cache; a position of the fake runner takes a byte."""


def request(rows: int = 1, *, has_priority: bool = False) -> Request:
    return make_request(PROMPT, has_priority=has_priority, num_beams=rows)


def budget(
    running: list[Request],
    ended: list[Request] | None = None,
    *,
    runner: FakeRunner = SEPARATE,
    kv_bytes: int = 10**6,
    rows: int = 4,
    step_tokens: int = 64,
    priority_rows: int = 0,
) -> AdmissionBudget:
    limits = Limits(kv_bytes, rows, step_tokens, priority_rows)
    return AdmissionBudget(runner, limits, running, ended or [])


def test_rows_in_the_batch_and_rows_taken_are_not_to_be_had_again() -> None:
    left = budget([request(1)])
    assert not left.fits(request(4), TOKENS)
    assert left.fits(request(3), TOKENS)
    left.take(request(2), TOKENS)
    assert left.has_rows
    assert not left.fits(request(2), TOKENS)
    left.take(request(1), TOKENS)
    assert not left.has_rows


def test_what_ended_holds_bytes_and_no_rows() -> None:
    assert budget([], [request(4)]).fits(request(4), TOKENS)
    assert budget([], [request(1)], kv_bytes=2 * BYTES).fits(request(1), TOKENS)
    assert not budget([], [request(1)], kv_bytes=2 * BYTES - 1).fits(request(1), TOKENS)


def test_prioritised_requests_fill_their_own_rows_first() -> None:
    left = budget([], rows=1, priority_rows=1)
    left.take(request(has_priority=True), TOKENS)
    assert left.fits(request(), TOKENS)
    left.take(request(has_priority=True), TOKENS)
    assert not left.has_rows


@pytest.mark.parametrize("running", [[], [request(has_priority=True)]])
def test_others_never_take_the_rows_of_prioritised_ones(running: list[Request]) -> None:
    left = budget(running, rows=2, priority_rows=2)
    assert not left.fits(request(3), TOKENS)
    left.take(request(2), TOKENS)
    assert left.has_rows
    assert not left.fits(request(), TOKENS)
    assert left.fits(request(has_priority=True), TOKENS)


def test_more_prioritised_rows_than_are_kept_for_them_count_among_all() -> None:
    left = budget([request(3, has_priority=True)], rows=4, priority_rows=1)
    assert left.fits(request(2), TOKENS)
    assert not left.fits(request(3), TOKENS)


@pytest.mark.parametrize(("runner", "most"), [(SEPARATE, 8), (MIXED, 8 - 3)])
def test_prompts_share_a_mixed_step_with_a_token_of_each_row(runner: FakeRunner, most: int) -> None:
    left = budget([request(2), request(1)], runner=runner, step_tokens=8)
    assert left.fits(request(), most)
    assert not left.fits(request(), most + 1)
    left.take(request(), most)
    assert not left.fits(request(), 1)


def test_a_request_leaves_a_prioritised_one_bytes_unless_it_is_alone() -> None:
    def left(running: list[Request], ended: list[Request]) -> AdmissionBudget:
        return budget(running, ended, kv_bytes=3 * BYTES, priority_rows=1)

    assert left([], []).fits(request(3), TOKENS)
    assert left([request()], []).fits(request(), TOKENS)
    assert not left([request(2)], []).fits(request(), TOKENS)
    assert left([request(2)], []).fits(request(has_priority=True), TOKENS)
    assert not left([], [request(2)]).fits(request(), TOKENS), "what ended has bytes too"


def test_a_shared_prefix_takes_its_bytes_once() -> None:
    alike = [make_request([*range(100, 110), 50, start], shared=10) for start in (1, 2)]
    rest = alike[0].max_tokens - 10
    assert budget([alike[0]], runner=MIXED, kv_bytes=10 + 2 * rest).fits(alike[1], TOKENS)
    assert not budget([alike[0]], runner=MIXED, kv_bytes=9 + 2 * rest).fits(alike[1], TOKENS)
    assert not budget([alike[0]], runner=SEPARATE, kv_bytes=10 + 2 * rest).fits(alike[1], TOKENS)
