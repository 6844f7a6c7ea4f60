"""A job through the service with a fake model and engine, and the outcome of every kind of message."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.answer import Answer, FinishReason, Flag, JobResult
from contract.failure import Failure, FailureCode
from contract.job import Detail, GenerationParameters, ImagePath, Job
from contract.store import (
    DEAD_LETTERS_KEY,
    MOST_ATTEMPTS,
    SUSPECTED,
    WORKERS_KEY,
    attempts_key,
    cancelled_key,
    done_key,
    holders_key,
    results_key,
)
from tests.support.fakes import CONTEXT_TOKENS, EOS, IMAGE_TOKENS, RAISED, FakeEngine, FakeModel
from tests.support.processes import wait_until
from tests.support.workers import announce
from worker.answers import free_answer
from worker.delivery.attempts import Attempts, MessageOutcome
from worker.delivery.results import ResultStore
from worker.device_scheduler import DeviceScheduler
from worker.engine.request import Generation, Generations, Prefix, Request
from worker.errors import Requeue, StoreAwayError
from worker.images.decoder import Decoder
from worker.images.image_file import ImageLimits, read_bytes
from worker.lane import Lane
from worker.service import WORKER, Service

LIMITS = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)


def files_below(folder: Path) -> Callable[[Job], bytes]:
    """A fetch that reads files and nothing else."""

    def fetch(job: Job) -> bytes:
        assert isinstance(job.image, ImagePath)
        return read_bytes(job.image.to_path(), (folder,), LIMITS.max_bytes)

    return fetch


class Bench:
    """A service with its model, its engine and an image root that holds a.png, 20 x 30."""

    def __init__(self, folder: Path) -> None:
        Image.new("RGB", (30, 20)).save(folder / "a.png")
        self.folder = folder
        self.hold = folder / "hold"
        self.model = FakeModel()
        self.engine = FakeEngine(self.hold)
        self.service = Service(self.model, self.engine, files_below(folder), Decoder(LIMITS, "none"))


@pytest.fixture
def bench(images: Path) -> Iterator[Bench]:
    made = Bench(images)
    yield made
    made.hold.unlink(missing_ok=True)
    made.service.close()


def job(*questions: Any, image: str | None = "a.png", **changes: Any) -> Job:
    return Job.model_validate(message(*questions, image=image, **changes))


def message(*questions: Any, image: str | None = "a.png", **changes: Any) -> dict[str, Any]:
    return {
        "run": "r",
        "index": 3,
        "image": None if image is None else {"kind": "path", "path": image},
        "questions": [{"id": f"q{i}", "messages": text} for i, text in enumerate(questions, start=1)],
        **changes,
    }


def asking(**choices: list[str]) -> dict[str, Any]:
    return {
        "questions": [{"id": one, "messages": "Yes?", "choices": texts} for one, texts in choices.items()]
    }


def outcomes(result: JobResult) -> dict[str, Answer | Failure]:
    return {one.question: one.outcome for one in result.results}


def codes(result: JobResult) -> list[str]:
    return [
        one.outcome.code.value if isinstance(one.outcome, Failure) else one.outcome.text
        for one in result.results
    ]


def test_every_question_has_its_answer_in_the_jobs_order(bench: Bench) -> None:
    result = bench.service.answer(job("four", "seven..", "four"))
    assert [(one.question, codes(result)[i]) for i, one in enumerate(result.results)] == [
        ("q1", f"{4 + IMAGE_TOKENS} tokens"),
        ("q2", f"{7 + IMAGE_TOKENS} tokens"),
        ("q3", f"{4 + IMAGE_TOKENS} tokens"),
    ]
    assert (result.run, result.index, result.model) == ("r", 3, "fake")
    first = outcomes(result)["q1"]
    assert isinstance(first, Answer)
    assert (first.prompt_tokens, first.completion_tokens, first.score, first.finish_reason) == (
        9,
        2,
        -1.5,
        "stop",
    )


def test_an_image_is_encoded_once_for_its_questions(bench: Bench) -> None:
    bench.service.answer(job("one", "two", "three"))
    assert bench.model.encoded == [(20, 30)]


def test_an_image_that_no_question_looks_at_is_not_fetched(bench: Bench) -> None:
    text_only = [{"role": "user", "content": "Just words"}]
    assert codes(bench.service.answer(job(text_only, image="gone.png"))) == ["10 tokens"]
    assert codes(bench.service.answer(job("Just words", image=None))) == ["10 tokens"]
    assert bench.model.encoded == []


def test_an_image_failure_is_every_looking_questions_failure(bench: Bench) -> None:
    text_only = [{"role": "user", "content": "Just words"}]
    result = bench.service.answer(job("one", text_only, "two", image="gone.png"))
    assert codes(result) == ["image_not_found", "10 tokens", "image_not_found"]
    failures = [o for o in outcomes(result).values() if isinstance(o, Failure)]
    assert failures[0] == failures[1]
    assert "gone.png" in failures[0].message


def test_a_refused_question_leaves_the_others_answered(bench: Bench) -> None:
    assert codes(bench.service.answer(job("four", "refuse", "five."))) == [
        "9 tokens",
        "question_refused",
        "10 tokens",
    ]


def test_a_question_too_long_is_refused_with_the_numbers(bench: Bench) -> None:
    new_tokens = 20
    fits = "x" * (CONTEXT_TOKENS - IMAGE_TOKENS - new_tokens)
    result = bench.service.answer(job(fits, fits + "x", parameters={"max_new_tokens": new_tokens}))
    assert codes(result) == ["180 tokens", "question_too_long"]
    failure = outcomes(result)["q2"]
    assert isinstance(failure, Failure)
    for number in ("181 tokens", "5 of them", "max_new_tokens is 20", "context is 200"):
        assert number in failure.message


def test_parameters_reach_the_engine(bench: Bench) -> None:
    wishes = {"max_new_tokens": 7, "num_beams": 4, "length_penalty": 0.5, "early_stopping": "never"}
    bench.service.answer(job("four", parameters=wishes))
    (request,) = bench.engine.requests
    assert request.parameters == GenerationParameters.model_validate(wishes)
    assert request.eos_token_ids == (2,)
    assert (request.deadline, request.stops, request.choices) == (None, None, ())
    assert (request.inputs_embeds.shape, request.token_ids.shape) == ((9, 4), (9,))


def test_what_prompts_share_reaches_the_engine(bench: Bench) -> None:
    text_only = [{"role": "user", "content": "Just words"}]
    bench.service.answer(job("four", "seven..", text_only))
    shared = [request.prefix for request in bench.engine.requests]
    assert shared == [Prefix(b"(20, 30)", IMAGE_TOKENS), Prefix(b"(20, 30)", IMAGE_TOKENS), None]


@pytest.mark.parametrize("detail", ["low", "high", 3])
def test_the_detail_reaches_the_model(bench: Bench, detail: Detail) -> None:
    bench.service.answer(job("four", detail=detail))
    assert bench.model.details == [detail]


def test_an_answer_is_cut_before_its_stop_text(bench: Bench) -> None:
    result = bench.service.answer(job("four", parameters={"stop": ["kens"]}))
    assert codes(result) == ["9 to"]
    (request,) = bench.engine.requests
    assert request.stops is not None
    assert request.stops([*map(ord, "tokens")])
    assert not request.stops([*map(ord, "token")])


def test_further_sequences_are_alternatives(bench: Bench) -> None:
    parameters = {"num_beams": 3, "num_return_sequences": 3}
    found = outcomes(bench.service.answer(job("four", parameters=parameters)))["q1"]
    assert isinstance(found, Answer)
    assert [found.text, *(other.text for other in found.alternatives)] == [
        "9 tokens",
        "10 tokens",
        "11 tokens",
    ]


def test_the_most_probable_choice_is_the_answer(bench: Bench) -> None:
    found = outcomes(bench.service.answer(job(**asking(q1=["perhaps", " Yes", "no"]))))["q1"]
    assert isinstance(found, Answer)
    assert (found.text, found.score, found.completion_tokens, found.prompt_tokens) == ("no", -2.25, 3, 9)
    assert [choice.text for choice in found.choices] == ["perhaps", " Yes", "no"]
    assert [choice.score for choice in found.choices] == [-6.0, -3.75, -2.25]
    assert sum(choice.probability for choice in found.choices) == pytest.approx(1)
    assert found.choices[2].probability / found.choices[1].probability == pytest.approx(math.exp(1.5))
    (request,) = bench.engine.requests
    assert request.choices[2] == (ord("n"), ord("o"), EOS)
    assert request.parameters == GenerationParameters()


def test_choices_do_not_take_what_is_wished_of_other_questions(bench: Bench) -> None:
    wishes = {"max_new_tokens": 170, "stop": ["kens"]}
    questions = [*asking(q1=["yes", "no"])["questions"], {"id": "q2", "messages": "four"}]
    assert codes(bench.service.answer(job(questions=questions, parameters=wishes))) == ["no", "9 to"]
    assert bench.engine.requests[0].stops is None


def test_a_choice_too_long_is_refused_with_the_numbers(bench: Bench) -> None:
    long = "x" * (CONTEXT_TOKENS - IMAGE_TOKENS - len("Yes?"))
    result = bench.service.answer(job(**asking(q1=["no", long[1:]], q2=["no", long])))
    assert codes(result) == ["no", "question_too_long"]
    failure = outcomes(result)["q2"]
    assert isinstance(failure, Failure)
    for number in ("9 tokens", "the longest choice has 192", "context is 200"):
        assert number in failure.message


@pytest.mark.parametrize(
    ("token_ids", "reason", "text", "flags"),
    [
        ((5, EOS), "stop", "fine", ()),
        ((5, 6), "length", "cut", ("truncated",)),
        ((EOS,), "stop", "", ("empty",)),
        ((4, *(7, 8) * 12, EOS), "stop", "on and on", ("repetition",)),
        ((7, 8) * 12, "length", "on and on", ("truncated", "repetition")),
    ],
)
def test_flags(token_ids: tuple[int, ...], reason: FinishReason, text: str, flags: tuple[Flag, ...]) -> None:
    generation = Generation(token_ids, reason, score=-1.5, mean_log_prob=-0.5)
    answer = free_answer((generation,), 9, lambda _: text, (EOS,))
    assert answer.flags == flags
    assert (answer.score, answer.mean_log_prob, answer.finish_reason) == (-1.5, -0.5, reason)


def test_a_deadline_is_handed_on_in_monotonic_time(bench: Bench) -> None:
    before = time.monotonic()
    bench.service.answer(job("four", deadline=time.time() + 1000))
    (request,) = bench.engine.requests
    assert request.deadline is not None
    assert before + 999 < request.deadline < time.monotonic() + 1001


def test_after_its_deadline_a_job_is_not_begun(bench: Bench) -> None:
    result = bench.service.answer(job("four", "five.", deadline=time.time() - 1))
    assert codes(result) == ["deadline_exceeded", "deadline_exceeded"]
    assert bench.model.encoded == []
    assert bench.engine.requests == []


def test_draining_gives_back_what_has_not_begun_and_finishes_what_has(bench: Bench) -> None:
    bench.hold.touch()
    ends: dict[str, JobResult | Requeue] = {}

    def answer(name: str) -> None:
        try:
            ends[name] = bench.service.answer(job("four", "five."))
        except Requeue as given_back:
            ends[name] = given_back

    threads = [threading.Thread(target=answer, args=(name,)) for name in ("begun", "waiting")]
    threads[0].start()
    bench.engine.begun.wait()
    threads[1].start()
    wait_until(lambda: len(bench.model.encoded) == 2)
    bench.service.drain()
    threads[1].join()
    assert isinstance(ends["waiting"], Requeue)
    bench.hold.unlink()
    threads[0].join()
    assert isinstance(ends["begun"], JobResult)
    assert codes(ends["begun"]) == ["9 tokens", "10 tokens"]
    assert len(bench.engine.requests) == 2
    with pytest.raises(Requeue):
        bench.service.answer(job("four"))


def test_a_job_for_another_model_is_refused(bench: Bench) -> None:
    result = bench.service.answer(job("four", "five.", model="llava-7b"))
    assert codes(result) == ["wrong_model"] * 2
    failure = outcomes(result)["q1"]
    assert isinstance(failure, Failure)
    assert "llava-7b" in failure.message
    assert "answers with fake" in failure.message
    assert bench.model.encoded == []
    assert codes(bench.service.answer(job("four", model="fake"))) == ["9 tokens"]


def test_an_interactive_job_goes_first_at_the_device_and_in_the_engine(bench: Bench) -> None:
    bench.service.answer(job("four"))
    bench.service.answer(job("four"), lane=Lane.INTERACTIVE)
    assert bench.model.lanes == [Lane.BULK, Lane.INTERACTIVE]
    assert [request.has_priority for request in bench.engine.requests] == [False, True]


class Observed(DeviceScheduler):
    """Notes where a job holds a turn or yields."""

    def __init__(self, bench: Bench, store: ResultStore) -> None:
        super().__init__()
        self._bench = bench
        self._store = store
        self.seen: list[str] = []

    def _note(self, what: str) -> None:
        bench = self._bench
        if not self._store.is_wanted("r", 3):
            how_far = "written"
        elif bench.engine.requests:
            how_far = "in the engine"
        elif bench.model.encoded:
            how_far = "encoded"
        elif bench.model.lanes:
            how_far = "decoded"
        else:
            how_far = "begun" if self._store.holder("r", 3) else "delivered"
        self.seen.append(f"{what} {how_far}")

    @contextmanager
    def interactive_turn(self, lane: Lane) -> Iterator[None]:
        if lane is not Lane.INTERACTIVE:
            yield
            return
        self._note("first")
        with super().interactive_turn(lane):
            yield
        # The engine begins in a thread of its own.
        self._bench.engine.begun.wait(5)
        self._note("left")

    def yield_to_interactive(self, lane: Lane) -> None:
        if lane is not Lane.INTERACTIVE:
            self._note("yields")
        super().yield_to_interactive(lane)


BULK_YIELDS = ["delivered", "decoded", "encoded", "in the engine", "in the engine"]


@pytest.mark.parametrize(
    ("lane", "seen"),
    [
        (Lane.INTERACTIVE, ["first begun", "left in the engine"]),
        (Lane.BULK, [f"yields {how_far}" for how_far in BULK_YIELDS]),
        (Lane.SUSPECT, [f"yields {how_far}" for how_far in BULK_YIELDS]),
    ],
)
def test_an_interactive_job_goes_first_and_others_yield_between_their_steps(
    bench: Bench, store: ResultStore, lane: Lane, seen: list[str]
) -> None:
    device = Observed(bench, store)
    fetch, decoder = files_below(bench.folder), Decoder(LIMITS, "none")
    service = Service(bench.model, bench.engine, fetch, decoder, device=device)
    attempts = Attempts(service, store, never, device=device)
    attempts.take([message("four")], lane)
    assert device.seen == seen
    assert not store.is_wanted("r", 3)


class Endless:
    """An engine whose requests never end. Obeys the service's protocol."""

    def __init__(self) -> None:
        self.futures: list[Future[Generations]] = []

    def submit(self, _: Request) -> Future[Generations]:
        self.futures.append(Future())
        return self.futures[-1]

    def close(self) -> None: ...


def test_an_interactive_job_ends_when_its_run_is_cancelled(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    engine = Endless()
    service = Service(bench.model, engine, lambda _: b"", Decoder(LIMITS))
    cancel = threading.Timer(0.3, lambda: connection.set(cancelled_key("r"), 1))
    cancel.start()
    Attempts(service, store, never).take([message("four", image=None)], lane=Lane.INTERACTIVE)
    assert [future.cancelled() for future in engine.futures] == [True]
    assert records(connection) == []
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}


def test_without_streams_no_job_has_one(bench: Bench) -> None:
    assert codes(bench.service.answer(job("four", stream=True))) == ["invalid_job"]


@pytest.fixture
def store(redis_url: str) -> Iterator[ResultStore]:
    made = ResultStore(redis_url)
    yield made
    made.close()


@pytest.fixture
def attempts(bench: Bench, store: ResultStore) -> Attempts:
    return Attempts(bench.service, store, never)


def never(job: object) -> None:
    raise AssertionError(f"{job} is no suspect")


def records(connection: redis.Redis) -> list[JobResult]:
    entries: Any = connection.xrange(results_key("r"))
    return [JobResult.model_validate_json(fields[b"record"]) for _, fields in entries]


def test_a_job_delivered_twice_has_one_record(attempts: Attempts, connection: redis.Redis) -> None:
    for index in (3, 3, 4):
        attempts.take([message("four", index=index)])
    assert [record.index for record in records(connection)] == [3, 4]
    assert connection.getbit(done_key("r"), 3) == 1
    assert connection.getbit(done_key("r"), 5) == 0
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}


def test_what_is_answered_or_cancelled_is_dropped_without_work(
    attempts: Attempts, bench: Bench, connection: redis.Redis
) -> None:
    attempts.take([message("four", index=3)])
    connection.set(cancelled_key("r"), 1)
    for dropped in (message("four", index=3), message("four", index=4), message("four", index=5, version=9)):
        attempts.take([dropped])
    assert [record.index for record in records(connection)] == [3]
    assert len(bench.engine.requests) == 1
    connection.delete(cancelled_key("r"))
    attempts.take([message("four", index=3)])
    attempts.take([message("four", index=4)])
    assert [record.index for record in records(connection)] == [3, 4]
    assert len(bench.engine.requests) == 2


@pytest.mark.parametrize(
    "name", ["RuntimeError", "MemoryError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"]
)
def test_whatever_is_raised_becomes_a_record(attempts: Attempts, connection: redis.Redis, name: str) -> None:
    attempts.take([message(f"raise {name}", "four")])
    (record,) = records(connection)
    others = "9 tokens" if issubclass(RAISED[name], Exception) else "internal_error"
    assert codes(record) == ["internal_error", others]
    failure = outcomes(record)["q1"]
    assert isinstance(failure, Failure)
    assert name in failure.message


@pytest.mark.parametrize(
    ("changes", "code", "ids", "sentence"),
    [
        ({"colour": "red"}, "invalid_job", ["q1", "q2"], "colour: Extra inputs"),
        ({"parameters": {"num_beams": 0}}, "invalid_job", ["q1", "q2"], "parameters.num_beams"),
        ({"version": 2}, "unsupported_version", ["q1", "q2"], "has version 2; this worker knows version 1"),
        ({"questions": []}, "invalid_job", ["*"], "questions"),
        ({"questions": None}, "invalid_job", ["*"], "questions"),
        (
            {"questions": [{"id": "q1", "messages": "a"}, {"messages": "b"}]},
            "invalid_job",
            ["*"],
            "questions.1.id",
        ),
        ({"image": {"kind": "url", "url": "u"}}, "invalid_job", ["q1", "q2"], "image"),
        (
            {**asking(q1=["yes", "no"]), "parameters": {"length_penalty": 0.0, "num_beams": 2}},
            "invalid_job",
            ["q1"],
            "no parameter but length_penalty and visual_tokens decides",
        ),
    ],
)
def test_an_invalid_job_becomes_a_record(
    attempts: Attempts,
    connection: redis.Redis,
    changes: dict[str, Any],
    code: FailureCode,
    ids: list[str],
    sentence: str,
) -> None:
    attempts.take([message("one", "two", **changes)])
    (record,) = records(connection)
    assert [one.question for one in record.results] == ids
    assert codes(record) == [code] * len(ids)
    failure = record.results[0].outcome
    assert isinstance(failure, Failure)
    assert sentence in failure.message


@pytest.mark.parametrize(
    "garbage", [None, "text", 7, [], {}, {"run": "r"}, {"run": "r", "index": -1}, {"run": "a b", "index": 0}]
)
def test_a_message_of_no_job_becomes_a_dead_letter(
    attempts: Attempts, connection: redis.Redis, garbage: object
) -> None:
    attempts.take([garbage])
    (letter,) = connection.lrange(DEAD_LETTERS_KEY, 0, -1)
    assert json.loads(letter)["message"] == repr(garbage)
    assert records(connection) == []


@pytest.mark.parametrize("changes", [{"version": "9" * 10_000}, {"x" * 10_000: 1}])
def test_a_record_does_not_repeat_what_a_message_says_at_length(
    attempts: Attempts, connection: redis.Redis, changes: dict[str, Any]
) -> None:
    attempts.take([message("one", **changes)])
    (record,) = records(connection)
    assert len(record.model_dump_json()) < 1000


def test_an_unreachable_store_is_an_error_and_no_record(bench: Bench) -> None:
    store = ResultStore("redis://127.0.0.1:1/0", retries=0)
    assert Attempts(bench.service, store, never).take([message("four")]) is MessageOutcome.REQUEUE
    assert bench.engine.requests == []


def test_a_job_whose_image_cannot_be_read_from_the_store_goes_back(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    def fetch(_: Job) -> bytes:
        raise StoreAwayError("TimeoutError")

    service = Service(bench.model, bench.engine, fetch, Decoder(LIMITS, "none"))
    attempts = Attempts(service, store, never)
    jobs = [message("four"), message("four", index=4)]
    assert attempts.take(jobs) is MessageOutcome.REQUEUE
    assert records(connection) == []
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}


def test_the_jobs_of_a_message_are_answered_in_turn_and_held_meanwhile(
    attempts: Attempts, bench: Bench, connection: redis.Redis
) -> None:
    bench.hold.touch()
    jobs = [message("four", index=index) for index in (3, 4, 5)]
    with ThreadPoolExecutor(1) as thread:
        taking = thread.submit(attempts.take, jobs)
        bench.engine.begun.wait()
        assert connection.hgetall(holders_key("r")) == dict.fromkeys((b"3", b"4", b"5"), WORKER.encode())
        assert connection.hgetall(attempts_key("r")) == {b"3": b"1"}
        bench.hold.unlink()
        taking.result()
    assert [record.index for record in records(connection)] == [3, 4, 5]
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}


class Suspects:
    """Where jobs are passed on to, with a worker that answers them, as they are taken from there."""

    def __init__(self, bench: Bench, store: ResultStore, worker: str = "this") -> None:
        self.jobs: list[object] = []
        self.attempts = Attempts(bench.service, store, self.jobs.append, worker, pause_s=0.0)

    def take(self) -> None:
        waiting, self.jobs[:] = list(self.jobs), []
        self.attempts.take(waiting, lane=Lane.SUSPECT)


def test_a_job_that_was_under_way_when_a_worker_died_is_suspect(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    """A death leaves behind an attempt, and a holder that is not alive."""
    suspects = Suspects(bench, store)
    jobs = [message("four", index=index) for index in (3, 4)]
    store.begin("dead", "r", 3, 1)
    suspects.attempts.take(jobs)
    assert [record.index for record in records(connection)] == [4]
    assert suspects.jobs == jobs[:1]
    assert connection.hgetall(holders_key("r")) == {b"3": SUSPECTED.encode()}
    suspects.take()
    assert [record.index for record in records(connection)] == [4, 3]
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}


def test_a_job_that_kills_two_workers_alone_ends_as_a_failure(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    suspects = Suspects(bench, store)
    for worker in ("dead 1", "dead 2", "dead 3"):
        assert records(connection) == []
        store.begin(worker, "r", 3, MOST_ATTEMPTS)
    suspects.attempts.take([message("four", index=3)])
    suspects.take()
    (record,) = records(connection)
    assert codes(record) == ["crashed_worker"]
    assert bench.engine.requests == []
    assert connection.hgetall(attempts_key("r")) == {}


def test_a_suspect_that_another_live_worker_is_at_waits_for_it(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    suspects = Suspects(bench, store)
    announce(connection, "other", "m")
    store.begin("other", "r", 3, 1)
    job = message("four", index=3)
    suspects.attempts.take([job])
    for _ in range(2 * MOST_ATTEMPTS):
        suspects.take()
        assert suspects.jobs == [job]
    assert connection.hgetall(holders_key("r")) == {b"3": b"other"}
    connection.hdel(WORKERS_KEY, "other")
    suspects.take()
    assert [record.index for record in records(connection)] == [3]


class Forgetful(ResultStore):
    """Fails the first so many releases."""

    def __init__(self, redis_url: str, times: int) -> None:
        super().__init__(redis_url)
        self._times = times

    def release(self, worker: str, run: str, index: int, *, begun: bool) -> None:
        if self._times:
            self._times -= 1
            raise redis.ConnectionError
        super().release(worker, run, index, begun=begun)


def test_a_job_that_could_not_be_let_go_is_let_go_later(
    bench: Bench, redis_url: str, connection: redis.Redis
) -> None:
    store = Forgetful(redis_url, 2)
    service = Service(bench.model, bench.engine, files_below(bench.folder), Decoder(LIMITS))
    service.drain()
    attempts = Attempts(service, store, never)
    assert attempts.take([message("four", index=3)]) is MessageOutcome.REQUEUE
    assert connection.hgetall(attempts_key("r")) == {b"3": b"1"}
    assert attempts.take([message("four", index=4)]) is MessageOutcome.REQUEUE
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}
    store.close()


def test_what_could_not_be_let_go_is_let_go_without_a_further_message(
    bench: Bench, redis_url: str, connection: redis.Redis
) -> None:
    store = Forgetful(redis_url, 2)
    service = Service(bench.model, bench.engine, files_below(bench.folder), Decoder(LIMITS))
    service.drain()
    attempts = Attempts(service, store, never)
    jobs = [message("four", index=index) for index in (3, 4, 5)]
    assert attempts.take(jobs) is MessageOutcome.REQUEUE
    assert len(connection.hgetall(holders_key("r"))) == 3
    attempts.held.reconcile()
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}
    store.close()


def test_a_server_without_memory_leaves_no_job_held(
    bench: Bench, redis_url: str, connection: redis.Redis
) -> None:
    """Neither the job whose record it did not take, nor those that came in the same message."""
    store = ResultStore(redis_url, retries=0)
    attempts = Attempts(bench.service, store, never)
    bench.hold.touch()
    with ThreadPoolExecutor(1) as thread:
        taking = thread.submit(attempts.take, [message("four", index=index) for index in (3, 4, 5)])
        bench.engine.begun.wait()
        connection.config_set("maxmemory", 1)
        try:
            bench.hold.unlink()
            assert taking.result() is MessageOutcome.REQUEUE
        finally:
            connection.config_set("maxmemory", 0)
    attempts.held.reconcile()
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}
    store.close()


def test_an_attempt_that_ended_the_engine_counts(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    ends: list[bool] = []
    attempts = Attempts(bench.service, store, never, end_process=lambda: ends.append(True))
    outcome = attempts.take([message("raise EngineStoppedError", index=3)])
    assert (outcome, ends) == (MessageOutcome.REQUEUE, [True])
    assert connection.hgetall(attempts_key("r")) == {b"3": b"1"}


def test_a_suspect_is_answered_alone(bench: Bench, store: ResultStore, connection: redis.Redis) -> None:
    suspects = Suspects(bench, store)
    bench.hold.touch()
    suspects.jobs.append(message("four", index=5))
    with ThreadPoolExecutor(2) as threads:
        bulk = threads.submit(suspects.attempts.take, [message("four", index=3)])
        bench.engine.begun.wait()
        alone = threads.submit(suspects.take)
        time.sleep(0.2)
        begun = connection.hgetall(attempts_key("r"))
        bench.hold.unlink()
        bulk.result()
        alone.result()
    assert begun == {b"3": b"1"}
    assert [record.index for record in records(connection)] == [3, 5]


def test_what_has_begun_is_given_back_when_the_time_to_drain_is_up(
    bench: Bench, store: ResultStore, connection: redis.Redis
) -> None:
    service = Service(
        bench.model, bench.engine, files_below(bench.folder), Decoder(LIMITS, "none"), drain_s=0.0
    )
    bench.hold.touch()
    with ThreadPoolExecutor(1) as thread:
        taking = thread.submit(Attempts(service, store, never).take, [message("four", index=3)])
        bench.engine.begun.wait()
        service.drain()
        assert taking.result() is MessageOutcome.REQUEUE
        bench.hold.unlink()
    assert records(connection) == []
    assert connection.hgetall(attempts_key("r")) == connection.hgetall(holders_key("r")) == {}
