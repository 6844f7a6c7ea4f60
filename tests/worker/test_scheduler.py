"""The scheduler's room, sharing, order and ends, step by step on a runner without a model."""

from collections.abc import Callable
from typing import Any

import pytest

from contract.failure import FailureCode, Refusal
from tests.support.fake_runner import EOS, VOCABULARY, FakeRunner, counting, make_request
from tests.support.scheduler_driver import KINDS, MIXED, SEPARATE, Driver, Kind, StepFailedError, alone, same
from worker.engine.admission import Limits
from worker.engine.request import Generations, Request
from worker.engine.scheduled_request import ScheduledRequest
from worker.engine.scheduler import MOST_HELD_UP, MOST_OVERTAKEN

PREFIX = tuple(range(100, 110))


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(params=[SEPARATE, MIXED], ids=["stateful", "paged"])
def forking(request: pytest.FixtureRequest) -> Kind:
    """Kinds whose forks are never refused."""
    chosen: Kind = request.param
    return chosen


# One prefill for a prefix


def question(start: int, **options: Any) -> Request:
    """About PREFIX; counts upwards from `start` to the end: 16 - start tokens."""
    return make_request([*PREFIX, 50, start], shared=len(PREFIX), **options)


def stranger(start: int, **options: Any) -> Request:
    """Shares nothing with any other; counts like question()."""
    return make_request([51, start], **options)


def counted(found: Generations | Exception) -> tuple[int, ...]:
    """The tokens of the one generation."""
    assert isinstance(found, tuple), found
    [generation] = found
    return generation.token_ids


def up_from(start: int) -> tuple[int, ...]:
    return (*range(start + 1, VOCABULARY), EOS)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_requests_of_one_prefix_compute_it_once(forking: Kind, rows: int) -> None:
    """All at once, or one after the other where there are too few rows."""
    limits = Limits(kv_bytes=10**6, rows=rows, step_tokens=64)
    runner = forking.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    added = driver.add(*(question(start) for start in range(1, 9)))
    driver.finish()
    assert [counted(driver.outcomes[scheduled]) for scheduled in added] == [up_from(s) for s in range(1, 9)]
    assert [runner.count_of(token) for token in (*PREFIX, 50)] == [1] * len(PREFIX) + [8]


def test_those_that_come_while_the_first_decodes_fork_it(forking: Kind) -> None:
    runner = forking.runner(logits=counting)
    driver = Driver(runner)
    driver.add(question(1))
    for _ in range(4):
        driver.step()
    driver.add(*(question(start) for start in range(2, 9)))
    driver.finish()
    assert [runner.count_of(token) for token in PREFIX] == [1] * len(PREFIX)


def test_those_that_come_while_the_last_step_of_the_first_runs_fork_it(forking: Kind) -> None:
    runner = forking.runner(logits=counting)
    driver = Driver(runner)
    [first] = driver.add(question(1, max_new_tokens=1))
    driver.step()
    assert first in driver.outcomes
    driver.add(*(question(start) for start in range(2, 9)))
    driver.finish()
    assert [runner.count_of(token) for token in PREFIX] == [1] * len(PREFIX)


def test_what_ended_is_kept_for_a_fork_only_where_both_have_room(forking: Kind) -> None:
    runner = forking.runner(logits=counting)
    needed = runner.bytes_for(len(question(1).inputs_embeds) + 20)
    limits = Limits(kv_bytes=needed, rows=4, step_tokens=64)
    runner = forking.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(question(9), question(10))
    driver.finish()
    assert runner.most_bytes == needed
    assert runner.count_of(PREFIX[0]) == 2


def test_what_ended_and_nobody_forks_makes_room_at_once(forking: Kind) -> None:
    limits = Limits(kv_bytes=forking.runner().bytes_for(2 + 20), rows=4, step_tokens=64)
    driver = Driver(forking.runner(limits, logits=counting), limits)
    driver.add(question(1, max_new_tokens=1), stranger(1))
    driver.step()
    assert len(driver.step()) == 1
    driver.finish()


def test_beams_fork_after_the_prefill(forking: Kind) -> None:
    runner = forking.runner()
    driver = Driver(runner)
    [scheduled] = driver.add(question(1, num_beams=4))
    driver.step()
    driver.step()
    assert [[len(piece) for piece in step] for step in runner.steps] == [[len(PREFIX) + 2], [1] * 4]
    driver.finish()
    assert same(driver.outcomes[scheduled], alone(question(1, num_beams=4)))


def test_a_refused_fork_is_computed_whole() -> None:
    runner = FakeRunner(counting, may_fork=lambda: False)
    driver = Driver(runner)
    added = driver.add(*(question(start) for start in (1, 2)))
    driver.step()
    driver.step()
    driver.step()
    added += driver.add(question(3))
    driver.step()
    assert runner.steps[3] == [[*PREFIX, 50, 3]]
    driver.finish()
    assert runner.count_of(PREFIX[0]) == 3
    assert [counted(driver.outcomes[scheduled]) for scheduled in added] == [
        up_from(start) for start in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    "limits", [Limits(10**6, rows=2, step_tokens=64), Limits(74, rows=9, step_tokens=64)]
)
def test_room_is_kept_for_those_whose_prefix_is_being_computed(forking: Kind, limits: Limits) -> None:
    """Two questions have room and a third request has not, for want of rows or of bytes."""
    driver = Driver(forking.runner(limits, logits=counting), limits)
    _, kin, other = driver.add(question(1), question(2), stranger(3))
    driver.step()
    driver.step()
    assert kin.sequences
    assert not other.sequences
    driver.finish()


def test_waiting_for_a_prefix_holds_up_nobody(forking: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=9, step_tokens=14)
    runner = forking.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(question(1), question(2), stranger(3))
    driver.step()
    assert runner.steps == [[[*PREFIX, 50, 1], [51, 3]]]
    driver.finish()


# Order


def test_a_request_without_room_is_overtaken_by_forks_only_and_so_often(forking: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64)
    driver = Driver(forking.runner(limits, logits=counting), limits)
    driver.add(question(1))
    driver.step()
    wide, other = driver.add(stranger(1, num_beams=4), stranger(2))
    forks: list[ScheduledRequest] = []
    for number in range(10 * MOST_OVERTAKEN):
        forks += driver.add(question(5 + number % 7))
        driver.step()
        if wide.sequences:
            break
        assert not other.sequences
    assert wide.sequences
    admitted = [fork for fork in forks if fork.sequences or fork in driver.outcomes]
    assert len(admitted) == MOST_OVERTAKEN
    driver.finish()


def test_prioritised_requests_go_before_all_that_wait(kind: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=1, step_tokens=64)
    driver = Driver(kind.runner(limits, logits=counting), limits)
    [running] = driver.add(stranger(14))
    driver.step()
    waiting = driver.add(stranger(13), stranger(12))
    prioritised = driver.add(stranger(11, has_priority=True), stranger(10, has_priority=True))
    driver.finish()
    assert list(driver.outcomes) == [running, *prioritised, *waiting]


def test_prioritised_prompts_are_computed_before_the_others_of_their_plan() -> None:
    runner = SEPARATE.runner(logits=counting)
    driver = Driver(runner)
    driver.add(stranger(3), stranger(4), stranger(5, has_priority=True))
    driver.step()
    driver.step()
    assert runner.steps == [[[51, 5]], [[51, 3], [51, 4]]]
    driver.finish()


def test_a_prioritised_row_decodes_between_the_prompts_of_others() -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=4)
    runner = SEPARATE.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    [prioritised] = driver.add(stranger(8, has_priority=True))
    steps = 0
    while prioritised not in driver.outcomes:
        driver.add(stranger(1, max_new_tokens=1), stranger(2, max_new_tokens=1))
        driver.step()
        steps += 1
    assert steps <= 2 * len(up_from(8)) + 2
    driver.finish()


def test_prioritised_requests_have_rows_of_their_own(kind: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=2, step_tokens=64, priority_rows=1)
    driver = Driver(kind.runner(limits, logits=counting), limits)
    bulk = driver.add(stranger(1), stranger(2), stranger(3))
    driver.step()
    first, second = driver.add(stranger(12, has_priority=True), stranger(13, has_priority=True))
    driver.step()
    assert first.sequences
    assert not second.sequences
    while first not in driver.outcomes:
        assert not bulk[2].sequences, "no bulk request takes the row that is kept"
        driver.step()
    driver.step()
    assert second.sequences
    driver.finish()


def test_wide_bulk_requests_do_not_wait_for_rows_of_prioritised_ones(kind: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64, priority_rows=1)
    driver = Driver(kind.runner(limits, logits=counting), limits)
    [prioritised] = driver.add(stranger(1, has_priority=True))
    driver.step()
    [wide] = driver.add(stranger(1, num_beams=4))
    driver.step()
    assert prioritised.sequences
    assert wide.sequences
    driver.finish()


def test_bulk_requests_leave_a_prioritised_one_room_in_the_cache(kind: Kind) -> None:
    row = kind.runner().bytes_for(stranger(1).max_tokens)
    limits = Limits(kv_bytes=3 * row, rows=9, step_tokens=64, priority_rows=1)
    driver = Driver(kind.runner(limits, logits=counting), limits)
    bulk = driver.add(stranger(1), stranger(2), stranger(3))
    driver.step()
    driver.step()
    assert [bool(scheduled.sequences) for scheduled in bulk] == [True, True, False]
    [prioritised] = driver.add(stranger(4, has_priority=True))
    driver.step()
    assert prioritised.sequences
    driver.finish()


def test_a_bulk_request_that_fills_the_cache_runs_alone(kind: Kind) -> None:
    row = kind.runner().bytes_for(stranger(1).max_tokens)
    limits = Limits(kv_bytes=row, rows=9, step_tokens=64, priority_rows=1)
    driver = Driver(kind.runner(limits, logits=counting), limits)
    bulk = driver.add(stranger(1), stranger(2))
    driver.finish()
    assert list(driver.outcomes) == bulk


@pytest.mark.parametrize("runner_kind", [SEPARATE, MIXED])
def test_a_prioritised_prompt_waits_for_no_other_prompt(runner_kind: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64, priority_rows=1)
    runner = runner_kind.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(stranger(3), stranger(4), stranger(5, has_priority=True))
    driver.step()
    assert runner.steps == [[[51, 5]]]
    driver.finish()


@pytest.mark.parametrize(
    ("priority_rows", "prompts"), [(1, [[300, 200], [400], [600], [100]]), (0, [[300, 200, 400, 600, 100]])]
)
def test_where_prioritised_ones_may_come_a_mixed_step_has_few_other_prompts(
    priority_rows: int, prompts: list[list[int]]
) -> None:
    limits = Limits(kv_bytes=10**6, rows=8, step_tokens=4096, priority_rows=priority_rows)
    runner = MIXED.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(*(make_request([51] * (length - 1) + [1]) for length in (300, 200, 400, 600, 100)))
    for _ in prompts:
        driver.step()
    computed = [[len(piece) for piece in step if len(piece) > 1] for step in runner.steps]
    assert computed == prompts
    assert [sum(len(piece) == 1 for piece in step) for step in runner.steps] == [0, 2, 3, 4][: len(prompts)]
    driver.finish()


def test_a_prioritised_request_without_room_is_overtaken_by_nobody(forking: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64)
    driver = Driver(forking.runner(limits, logits=counting), limits)
    driver.add(question(1))
    driver.step()
    wide, fork = driver.add(stranger(1, num_beams=4, has_priority=True), question(5))
    driver.step()
    assert not wide.sequences
    assert not fork.sequences
    driver.finish()


def test_a_request_is_overtaken_by_prioritised_ones_only_so_often(forking: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64)
    driver = Driver(forking.runner(limits, logits=counting), limits)
    driver.add(stranger(1))
    driver.step()
    [wide] = driver.add(stranger(1, num_beams=4))
    prioritised: list[ScheduledRequest] = []
    for number in range(20 * MOST_OVERTAKEN):
        prioritised += driver.add(stranger(10 + number % 3, has_priority=True))
        driver.step()
        if wide.sequences:
            break
    assert wide.sequences
    before = [scheduled for scheduled in prioritised if scheduled.sequences or scheduled in driver.outcomes]
    assert len(before) == MOST_OVERTAKEN
    driver.finish()


def test_a_refused_fork_does_not_overtake() -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64)
    driver = Driver(FakeRunner(counting, limits=limits, may_fork=lambda: False), limits)
    driver.add(question(1))
    driver.step()
    wide, kin = driver.add(stranger(1, num_beams=4), question(2))
    driver.step()
    assert not wide.sequences
    assert not kin.sequences
    driver.finish()


@pytest.mark.parametrize("following", [stranger, question])
def test_a_row_decodes_although_prompts_keep_coming(forking: Kind, following: Callable[..., Request]) -> None:
    limits = Limits(kv_bytes=10**6, rows=4, step_tokens=64)
    driver = Driver(forking.runner(limits, logits=counting), limits)
    [steady] = driver.add(make_request([52, 1]))
    for _ in range(len(up_from(1)) * (MOST_HELD_UP + 2)):
        driver.add(following(1, max_new_tokens=1), following(2, max_new_tokens=1))
        driver.step()
    assert counted(driver.outcomes[steady]) == up_from(1)
    driver.finish()


# What a step appends


def test_a_runner_that_mixes_gets_prompts_and_tokens_in_one_step() -> None:
    runner = MIXED.runner(logits=counting)
    driver = Driver(runner)
    driver.add(question(1))
    driver.step()
    driver.add(question(2), stranger(3))
    driver.step()
    assert runner.steps[1] == [[2], [50, 2], [51, 3]]
    driver.finish()


def test_a_runner_that_does_not_gets_prompts_first_then_tokens() -> None:
    limits = Limits(kv_bytes=10**6, rows=8, step_tokens=24)
    runner = SEPARATE.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(question(1), question(2), question(3), *(stranger(start) for start in range(4, 9)))
    for _ in range(4):
        driver.step()
    assert runner.steps == [
        [[*PREFIX, 50, 1], *([51, start] for start in range(4, 9))],
        [[50, 2], [50, 3]],
        [[2], [5], [6], [7], [8], [9], [3], [4]],
        [[3], [6], [7], [8], [9], [10], [4], [5]],
    ]
    driver.finish()


def test_a_fork_goes_along_with_the_tokens_of_many_rows() -> None:
    runner = SEPARATE.runner(logits=counting)
    driver = Driver(runner)
    driver.add(question(1), question(2))
    for _ in range(3):
        driver.step()
    driver.add(question(9))
    for _ in range(3):
        driver.step()
    assert runner.steps[3:] == [[[3], [4], [50]], [[4], [5], [9]], [[5], [6], [10]]]
    driver.finish()


def test_a_failed_step_ends_those_in_it_alone() -> None:
    runner = SEPARATE.runner(logits=counting)
    driver = Driver(runner)
    [steady] = driver.add(stranger(1))
    driver.step()

    def fail() -> None:
        raise StepFailedError

    runner.on_step = fail
    failing = driver.add(stranger(2), question(3))
    driver.step()
    assert [type(driver.outcomes[scheduled]) for scheduled in failing] == [StepFailedError] * 2
    runner.on_step = lambda: None
    driver.finish()
    assert counted(driver.outcomes[steady]) == up_from(1)


# Limits


@pytest.mark.parametrize(
    ("request_", "limits", "reason"),
    [
        (
            stranger(1, num_beams=4),
            Limits(kv_bytes=10**6, rows=3, step_tokens=64),
            "The request needs 4 rows at once and this worker runs 3; "
            "ask for less, or give the worker more room.",
        ),
        (
            stranger(1, num_beams=2, max_new_tokens=4 * 2**20),
            Limits(kv_bytes=5 * 2**20, rows=3, step_tokens=64),
            "The request may fill 8 MiB of the KV cache with 2 x 4194306 tokens and this worker has 5 MiB; "
            "ask for less, or give the worker more room.",
        ),
        (
            question(1),
            Limits(kv_bytes=10**6, rows=3, step_tokens=11),
            "The request has 12 prompt tokens and this worker takes 11 in a step; "
            "ask for less, or give the worker more room.",
        ),
    ],
    ids=["rows", "bytes", "prompt"],
)
def test_what_can_never_fit_is_refused(kind: Kind, request_: Request, limits: Limits, reason: str) -> None:
    driver = Driver(kind.runner(limits), limits)
    with pytest.raises(Refusal) as refused:
        driver.add(request_)
    assert refused.value.failure.code is FailureCode.EXCEEDS_CAPACITY
    assert refused.value.failure.message == reason
    assert driver.scheduler.idle


def test_what_just_fits_is_not_refused(kind: Kind) -> None:
    asked = question(1, num_beams=3, max_new_tokens=5)
    runner = kind.runner()
    shared = len(PREFIX) if kind.shares_prefixes else 0
    needed = (runner.bytes_for(shared) if shared else 0) + 3 * runner.bytes_for(12 + 5 - shared)
    exactly = Limits(kv_bytes=needed, rows=3, step_tokens=12)
    driver = Driver(kind.runner(exactly), exactly)
    [scheduled] = driver.add(asked)
    driver.finish()
    assert same(driver.outcomes[scheduled], alone(asked))
    less = Limits(kv_bytes=needed - 1, rows=3, step_tokens=12)
    with pytest.raises(Refusal):
        Driver(kind.runner(less), less).add(asked)


def test_prompts_of_one_step_keep_to_its_limit(kind: Kind) -> None:
    limits = Limits(kv_bytes=10**6, rows=8, step_tokens=16)
    runner = kind.runner(limits)
    driver = Driver(runner, limits)
    driver.add(*(make_request([60 + number] * 5) for number in range(8)))
    driver.finish()
    assert 13 <= runner.most_step_tokens <= 16


def test_forks_whose_rest_has_to_be_computed_after_all_keep_to_it_too() -> None:
    """They went along with the tokens of five rows, three of which end."""
    limits = Limits(kv_bytes=10**6, rows=16, step_tokens=16)
    runner = SEPARATE.runner(limits, logits=counting)
    driver = Driver(runner, limits)
    driver.add(question(1), question(2), *(question(start, max_new_tokens=3) for start in (3, 4, 5)))
    driver.step()
    driver.step()
    for _ in range(2):
        driver.add(*(make_request([*PREFIX, *range(60, 66)], shared=len(PREFIX)) for _ in range(2)))
        driver.step()
    driver.step()
    assert runner.steps[2:] == [
        [[2], [3], [4], [5], [6], [60], [60]],
        [[3], [4], [5], [6], [7], [61], [61], [60], [60]],
        [[62, 63, 64, 65], [62, 63, 64, 65], [61, 62, 63, 64, 65]],
    ]
    driver.finish()


def test_a_step_must_hold_a_token_of_every_row() -> None:
    with pytest.raises(ValueError, match="every row"):
        Limits(kv_bytes=1, rows=9, step_tokens=8)
