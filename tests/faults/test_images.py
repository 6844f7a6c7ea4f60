"""Images that strangers made: each ends in a picture or in the right failure, and no process dies of one."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from contract.answer import Answer, JobResult
from contract.failure import Failure, FailureCode, Refusal
from contract.job import ImagePath, Job
from contract.store import results_key
from producer.queue import Queue
from tests.faults.bad_images import LIMITS, SAVED, Case, cases, noise, saved
from tests.faults.mutations import bases, mutated
from tests.support.fakes import FakeEngine, FakeModel
from tests.support.processes import start_worker, wait_until
from worker.delivery.results import ResultStore
from worker.delivery.side_queue import SuspectQueue
from worker.images.decoder import Decoder
from worker.images.decoder_child import Bounds
from worker.images.decoder_process import DecoderProcess
from worker.images.fetch import ImageFetch
from worker.images.image_file import decode_image
from worker.lane import Lane
from worker.service import Service

IMAGE_CODES = {
    FailureCode.NOT_AN_IMAGE,
    FailureCode.IMAGE_BROKEN,
    FailureCode.IMAGE_TOO_LARGE,
    FailureCode.IMAGE_ASPECT,
}
MOST_RSS_BYTES = 200 * 2**20
"""Of a process that has decoded them all, each of up to a megapixel; 60 MiB of it are Python and Pillow."""


@pytest.fixture(scope="module")
def corpus() -> list[Case]:
    return list(cases())


def job(index: int, path: str) -> Job:
    questions = [{"id": "q", "messages": "What?"}]
    return Job.model_validate(
        {"run": "r", "index": index, "image": ImagePath.of(path), "questions": questions}
    )


def written(corpus: list[Case], folder: Path) -> list[Job]:
    """A job for each case, its file in the folder under a name that promises a JPEG."""
    for case in corpus:
        (folder / f"{case.name}.jpg").write_bytes(case.content)
    return [job(index, f"{case.name}.jpg") for index, case in enumerate(corpus)]


def wrong(corpus: list[Case], results: list[JobResult]) -> dict[str, str]:
    """The cases that did not end as expected, with their outcomes."""
    found = {}
    for case, result in zip(corpus, results, strict=True):
        outcome = result.results[0].outcome
        if isinstance(outcome, Failure):
            assert outcome.message.endswith("."), outcome
            if not isinstance(case.outcome, frozenset) or outcome.code not in case.outcome:
                found[case.name] = f"{outcome.code}: {outcome.message}"
        elif isinstance(case.outcome, frozenset):
            found[case.name] = "an answer"
    return found


def test_there_are_enough_of_them(corpus: list[Case]) -> None:
    assert len(corpus) >= 150
    assert len({case.name for case in corpus}) == len(corpus)
    assert len([case for case in corpus if isinstance(case.outcome, frozenset)]) >= 110


@pytest.mark.parametrize("lane", [Lane.BULK, Lane.SUSPECT])
def test_each_has_the_right_outcome(corpus: list[Case], images: Path, store: ResultStore, lane: Lane) -> None:
    jobs = written(corpus, images)
    decoder, model, engine = Decoder(LIMITS), FakeModel(), FakeEngine()
    service = Service(model, engine, ImageFetch((images,), LIMITS.max_bytes, store), decoder)
    results = [service.answer(one, lane=lane) for one in jobs]
    service.close()
    decoder.close()
    assert wrong(corpus, results) == {}
    assert model.encoded == [case.outcome for case in corpus if isinstance(case.outcome, tuple)]


@pytest.fixture
def store(redis_url: str) -> Iterator[ResultStore]:
    made = ResultStore(redis_url)
    yield made
    made.close()


@pytest.fixture
def environment(redis_url: str, images: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "CAPTIONMILL_REDIS_URL": redis_url,
        "CAPTIONMILL_MODEL_FOLDER": str(tmp_path),
        "CAPTIONMILL_IMAGE_ROOTS": str(images),
        "HOLD": str(tmp_path / "hold"),
    }


@contextmanager
def running_worker(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is still there at the end, and then ends as it should."""
    worker = start_worker("tests.support.fake_worker", log, environment)
    try:
        yield worker
        assert worker.poll() is None, log.read_text()
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0, log.read_text()


def decoders(worker: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of those that the worker has started."""
    return [
        child.pid
        for child in psutil.Process(worker.pid).children()
        if "worker.images.decoder_child" in child.cmdline()
    ]


def records(connection: redis.Redis) -> list[JobResult]:
    entries: Any = connection.xrange(results_key("r"))
    found = [JobResult.model_validate_json(fields[b"record"]) for _, fields in entries]
    return sorted(found, key=lambda result: result.index)


@pytest.mark.parametrize("isolation", ["none", "all"])
def test_a_worker_outlives_them(
    corpus: list[Case],
    environment: dict[str, str],
    connection: redis.Redis,
    images: Path,
    tmp_path: Path,
    isolation: str,
) -> None:
    environment["CAPTIONMILL_IMAGE_ISOLATION"] = isolation
    with running_worker(environment, tmp_path / "worker.log") as worker:
        jobs = written(corpus, images)
        queue = Queue(environment["CAPTIONMILL_REDIS_URL"], connection)
        queue.submit([(f"r-{one.index}", one.model_dump_json()) for one in jobs])
        wait_until(lambda: worker.poll() is not None or connection.xlen(results_key("r")) == len(jobs))
        results = records(connection)
        assert wrong(corpus, results) == {}
        assert len({result.worker for result in results}) == 1
        assert bool(decoders(worker)) == (isolation == "all")
        for pid in (worker.pid, *decoders(worker)):
            assert peak_bytes(pid) < MOST_RSS_BYTES


def test_a_suspect_is_decoded_outside_the_worker(
    environment: dict[str, str], connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    """And whatever becomes of the decoder, the next suspect finds one."""
    (images / "good.png").write_bytes(saved(noise(20, 30), "PNG"))
    suspects = SuspectQueue(environment["CAPTIONMILL_REDIS_URL"])
    with running_worker(environment, tmp_path / "worker.log") as worker:
        for index in range(3):
            suspects.put(job(index, "good.png").to_message())
            wait_until(lambda: len(records(connection)) > index)  # noqa: B023 - it is called at once
            [decoder] = decoders(worker)
            os.kill(decoder, signal.SIGSEGV)
        assert all(isinstance(record.results[0].outcome, Answer) for record in records(connection))
    suspects.close()


def peak_bytes(pid: int) -> int:
    """The most resident memory a process has had."""
    [kib] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kib) * 1024


def check_mutated(count: int, seed: int) -> None:
    """Have one process decode so many damaged files; it must neither die nor grow."""
    process = DecoderProcess(LIMITS, Bounds(memory_bytes=500_000_000))
    outcomes: dict[str, int] = {}
    for number, content in enumerate(mutated(count, seed)):
        try:
            image = process.decode(content)
        except Refusal as refusal:
            outcome = refusal.failure.code.value
        else:
            assert image.height * image.width <= LIMITS.max_px
            outcome = "picture"
        assert process.usable, (seed, number, "it took too much memory")
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    peak = peak_bytes(process.pid)
    process.end()
    print(f"{count} mutated images: {outcomes}, at most {peak / 2**20:.0f} MiB")
    assert peak < MOST_RSS_BYTES
    assert set(outcomes) <= {"picture", *IMAGE_CODES}
    # Else the damage would not reach the decoders at all, or never hit.
    assert set(outcomes) >= {"picture", "not_an_image", "image_broken", "image_too_large"}
    assert outcomes["image_broken"] > count / 10


def test_damaged_images() -> None:
    check_mutated(500, seed=1)


@pytest.mark.faults
def test_20000_damaged_images() -> None:
    for seed in range(10, 14):
        check_mutated(5000, seed)


def test_what_is_damaged_was_good() -> None:
    for content in bases():
        decode_image(content, LIMITS)
    assert list(mutated(20, 1)) == list(mutated(20, 1))
    assert list(mutated(20, 1)) != list(mutated(20, 2))


@pytest.mark.faults
@pytest.mark.parametrize("image_format", SAVED)
def test_cut_after_every_byte(image_format: str) -> None:
    """Of a picture that ends too soon nothing comes; only the last bytes of some formats are no loss."""
    whole = saved(noise(24, 32), image_format, **SAVED[image_format])
    expected = decode_image(whole, LIMITS).tobytes()
    outcomes = set()
    for size in range(len(whole)):
        try:
            found = decode_image(whole[:size], LIMITS).tobytes()
        except Refusal as refusal:
            outcomes.add(refusal.failure.code)
        else:
            assert found == expected, f"{size} of {len(whole)} bytes"
    assert outcomes <= IMAGE_CODES
