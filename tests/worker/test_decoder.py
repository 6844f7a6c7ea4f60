"""Decoding outside the worker: the same pictures and refusals; crashes, hangs and memory stay outside."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image

from contract.failure import FailureCode, Refusal
from tests.faults.bad_images import many_scans
from tests.support.processes import ROOT, wait_until
from tests.worker.test_images import encoded, picture, png
from worker.images.decoder import IMAGES_A_PROCESS, Decoder
from worker.images.decoder_child import Bounds
from worker.images.decoder_process import DecoderProcess, DecoderStartError, DiedError
from worker.images.image_file import MAX_SCANS, ImageLimits, decode_image
from worker.lane import Lane

LIMITS = ImageLimits(max_bytes=20_000_000, max_px=64_000_000, max_side_px=30_000, max_aspect=100.0)
PNG = encoded(picture(), "PNG")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder(LIMITS)
    yield made
    made.close()


def children() -> list[int]:
    """Process ids of the decoders that this process has started."""
    found = [child.pid for child in psutil.Process().children()]
    return [
        pid for pid in found if b"worker.images.decoder_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def refusal(call: Callable[[], object]) -> tuple[FailureCode, str]:
    with pytest.raises(Refusal) as refused:
        call()
    return refused.value.failure.code, refused.value.failure.message


@pytest.mark.parametrize(
    "content", [PNG, encoded(picture(), "JPEG"), b"", b"no image", PNG[:-30], png(9000, 9000)]
)
def test_the_outcome_is_the_same_outside(decoder: Decoder, content: bytes) -> None:
    try:
        expected = decode_image(content, LIMITS)
    except Refusal as refused:
        failure = refused.failure
        assert refusal(lambda: decoder(content, lane=Lane.SUSPECT)) == (failure.code, failure.message)
    else:
        found = decoder(content, lane=Lane.SUSPECT)
        assert (found.mode, found.size, found.tobytes()) == ("RGB", expected.size, expected.tobytes())


@pytest.mark.parametrize(
    ("isolation", "lane", "outside"),
    [
        ("suspect", Lane.BULK, False),
        ("suspect", Lane.SUSPECT, True),
        ("all", Lane.BULK, True),
        ("none", Lane.SUSPECT, False),
    ],
)
def test_which_images_are_decoded_outside(isolation: str, lane: Lane, outside: bool) -> None:
    decoder = Decoder(LIMITS, isolation)  # type: ignore[arg-type]
    decoder(PNG, lane=lane)
    assert bool(children()) == outside
    decoder.close()
    assert children() == []


def test_a_process_is_kept_for_the_next_image(decoder: Decoder) -> None:
    decoder(PNG, lane=Lane.SUSPECT)
    [first] = children()
    refusal(lambda: decoder(b"no image", lane=Lane.SUSPECT))
    decoder(PNG, lane=Lane.SUSPECT)
    assert children() == [first]
    for _ in range(IMAGES_A_PROCESS - 3):
        decoder(PNG, lane=Lane.SUSPECT)
    assert children() == []
    decoder(PNG, lane=Lane.SUSPECT)
    assert children() != [first]


def test_threads_share_no_more_processes_than_allowed() -> None:
    decoder = Decoder(LIMITS, processes=2)
    sources = [Image.new("RGB", (30 + number, 20), (number, 0, 0)) for number in range(20)]
    contents = [encoded(one, "PNG") for one in sources]
    most = 0

    def decoded(content: bytes) -> bytes:
        nonlocal most
        found = decoder(content, lane=Lane.SUSPECT).tobytes()
        most = max(most, len(children()))
        return found

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(decoded, contents)) == [one.tobytes() for one in sources]
    assert most == 2
    decoder.close()


def test_a_process_that_died_while_idle_blames_no_image(decoder: Decoder) -> None:
    decoder(PNG, lane=Lane.SUSPECT)
    [first] = children()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{first}/cmdline").read_bytes())
    assert decoder(PNG, lane=Lane.SUSPECT).size == (30, 20)


@pytest.fixture(scope="module")
def slow() -> bytes:
    """Takes seconds to decode and 190 MB: 64 grey megapixels in as many scans as are allowed."""
    return many_scans(8000, MAX_SCANS)


def grows_large() -> bool:
    """Whether a decoder has begun with such an image."""
    status = "".join(Path(f"/proc/{pid}/status").read_text() for pid in children())
    return any(int(kib) > 95_000 for kib in re.findall(r"VmRSS:\s+(\d+) kB", status))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_is_a_failure(decoder: Decoder, slow: bytes, number: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as thread:
        outcome = thread.submit(refusal, lambda: decoder(slow, lane=Lane.SUSPECT))
        wait_until(grows_large)
        [child] = children()
        os.kill(child, number)
        code, sentence = outcome.result()
    assert code == FailureCode.IMAGE_CRASHED_DECODER
    assert sentence == f"The image's decoder crashed ({number.name})."
    assert decoder(PNG, lane=Lane.SUSPECT).size == (30, 20)


def test_a_warm_process_that_crashes_has_a_fresh_one_try_again(decoder: Decoder) -> None:
    decoder(PNG, lane=Lane.SUSPECT)
    [first] = children()
    with ThreadPoolExecutor(1) as thread:
        outcome = thread.submit(decoder, many_scans(5000, 60), lane=Lane.SUSPECT)
        wait_until(grows_large)
        os.kill(first, signal.SIGSEGV)
        assert outcome.result().size == (5000, 5000)
    assert children() != [first]


@pytest.mark.parametrize(
    ("bounds", "code", "sentence"),
    [
        (Bounds(cpu_s=1), "image_crashed_decoder", "decoder took more than 1 s of a processor."),
        (Bounds(timeout_s=1.0), "image_crashed_decoder", "decoder did not finish within 1 s."),
    ],
)
def test_an_image_takes_no_longer_than_allowed(slow: bytes, bounds: Bounds, code: str, sentence: str) -> None:
    decoder = Decoder(LIMITS, bounds=bounds)
    found = refusal(lambda: decoder(slow, lane=Lane.SUSPECT))
    assert (found[0], sentence in found[1]) == (code, True), found
    assert children() == []
    for _ in range(3):
        assert decoder(PNG, lane=Lane.SUSPECT).size == (30, 20)
    decoder.close()


def test_an_image_takes_no_more_memory_than_allowed() -> None:
    decoder = Decoder(LIMITS, bounds=Bounds(memory_bytes=100_000_000))
    large = encoded(Image.new("RGB", (6000, 6000)), "PNG")
    code, sentence = refusal(lambda: decoder(large, lane=Lane.SUSPECT))
    assert (code, "takes more than the 100000000 bytes" in sentence) == ("image_too_large", True), sentence
    assert children() == []
    assert decoder(PNG, lane=Lane.SUSPECT).size == (30, 20)
    decoder.close()


@pytest.mark.faults
def test_processor_seconds_are_counted_for_each_image(slow: bytes) -> None:
    """Together the images take longer than one may."""
    process = DecoderProcess(LIMITS, Bounds(cpu_s=2))
    quick = many_scans(3000, MAX_SCANS)
    for _ in range(6):
        process.decode(quick)
    with pytest.raises(DiedError, match="more than 2 s"):
        process.decode(slow)
    process.end()


def test_a_decoder_leaves_no_secret_no_dump_and_no_group(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONMILL_REDIS_URL", "redis://:secret@127.0.0.1/0")
    decoder(PNG, lane=Lane.SUSPECT)
    [child] = children()
    assert b"secret" not in Path(f"/proc/{child}/environ").read_bytes()
    limits = Path(f"/proc/{child}/limits").read_text()
    for name in ("core file size", "file size"):
        assert re.search(rf"Max {name} +0 +0 ", limits), limits
    assert os.getpgid(child) != os.getpgid(0)
    # stdin, stdout, its copy and stderr
    assert len(list(Path(f"/proc/{child}/fd").iterdir())) == 4


def test_a_decoder_ends_with_its_worker() -> None:
    script = """
from tests.worker.test_decoder import LIMITS, PNG, children
from worker.images.decoder import Decoder
from worker.lane import Lane
import os, signal
Decoder(LIMITS)(PNG, lane=Lane.SUSPECT)
print(*children(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    wait_until(lambda: not Path(f"/proc/{int(run.stdout)}").exists())


def test_a_decoder_that_does_not_start_blames_no_image() -> None:
    @dataclass(frozen=True)
    class OtherLimits(ImageLimits):
        of_another_version: int = 0

    decoder = Decoder(OtherLimits(**asdict(LIMITS)))
    with pytest.raises(DecoderStartError, match=r"does not start: it crashed \(exit status 1\)"):
        decoder(PNG, lane=Lane.SUSPECT)
