"""Runs one process that decodes images within bounds; knows not which images go there."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Final

from PIL import Image

from contract.failure import Failure, FailureCode, Refusal
from worker.errors import WorkerError
from worker.images.decoder_child import LENGTH, NO_MEMORY, PIXELS, READY, REFUSED, SIZE, Bounds
from worker.images.image_file import ImageLimits, check_size

MOST_FAILURE_BYTES: Final = 10_000
END_TIMEOUT_S: Final = 5.0
"""Seconds that a process may take to end after it has closed its pipes."""


class DecoderStartError(WorkerError):
    """A process does not start, which is no image's fault."""


class DiedError(WorkerError):
    """The process has ended. The text is the rest of a sentence about the decoder."""


class DecoderProcess:
    """A running process, for one thread at a time."""

    def __init__(self, limits: ImageLimits, bounds: Bounds) -> None:
        """Raises DecoderStartError."""
        self._limits = limits
        self._bounds = bounds
        self.images = 0
        self.usable = False
        # A fresh interpreter: a forked one would have OpenVINO's locks without their threads, and hang.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "worker.images.decoder_child",
                json.dumps(asdict(limits)),
                json.dumps(asdict(bounds)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Not the worker's environment, which holds secrets. Threads and arenas take address space.
            env={
                "PYTHONSAFEPATH": "1",
                "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
                "OPENBLAS_NUM_THREADS": "1",
                "MALLOC_ARENA_MAX": "1",
            },
            # Ctrl-C must reach the worker alone, which first finishes what it has begun.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        with self._timed():
            self.usable = self._answers.read(len(READY)) == READY
        if not self.usable:
            cause = self._death()
            self.end()
            raise DecoderStartError(f"The decoder of images does not start: it {cause}.")

    def decode(self, content: bytes) -> Image.Image:
        """As worker.images.image_file.decode_image(). Raises Refusal and DiedError."""
        self.images += 1
        self.usable = False
        with self._timed() as expired:
            try:
                answer = self._ask(content)
            except (OSError, EOFError):
                if expired.is_set():
                    raise Refusal(
                        FailureCode.IMAGE_CRASHED_DECODER,
                        f"The image's decoder did not finish within {self._bounds.timeout_s:g} s.",
                    ) from None
                raise DiedError(self._death()) from None
        if answer is None:
            raise Refusal(
                FailureCode.IMAGE_TOO_LARGE,
                f"Decoding the image takes more than the {self._bounds.memory_bytes} bytes that are allowed.",
            )
        self.usable = True
        if isinstance(answer, Failure):
            raise Refusal(answer.code, answer.message)
        return answer

    def end(self) -> None:
        """End the process, at any time: it keeps nothing."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            # Closing writes what could not be written before.
            with suppress(OSError):
                pipe.close()

    def _ask(self, content: bytes) -> Image.Image | Failure | None:
        """The answer to one request; None if it takes too much memory.

        Raises OSError or EOFError if the process has ended.
        """
        self._requests.write(LENGTH.pack(len(content)))
        self._requests.write(content)
        self._requests.flush()
        match self._read(1):
            case code if code == PIXELS:
                height, width = SIZE.unpack(self._read(SIZE.size))
                # Checked here too: a stranger's image may have taken over the process.
                check_size(height, width, self._limits)
                return Image.frombytes("RGB", (width, height), self._read(height * width * 3))
            case code if code == REFUSED:
                (length,) = LENGTH.unpack(self._read(LENGTH.size))
                return Failure.model_validate_json(self._read(min(length, MOST_FAILURE_BYTES)))
            case code if code == NO_MEMORY:
                return None
        raise EOFError

    def _read(self, size_bytes: int) -> bytes:
        found = self._answers.read(size_bytes)
        if len(found) < size_bytes:
            raise EOFError
        return found

    @contextmanager
    def _timed(self) -> Iterator[threading.Event]:
        """After the time allowed, kill the process, which ends every read and write, and set the event."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(self._bounds.timeout_s, expire)
        timer.start()
        try:
            yield expired
        finally:
            timer.cancel()

    def _death(self) -> str:
        """How the process has ended, as the rest of a sentence about it."""
        try:
            status = self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "sent an answer that cannot be read"
        if status == -signal.SIGXCPU:
            return f"took more than {self._bounds.cpu_s} s of a processor"
        return f"crashed ({signal.Signals(-status).name if status < 0 else f'exit status {status}'})"
