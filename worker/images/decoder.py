"""Decodes images in this process, or in others that an image may crash; knows no job and no model."""

import logging
import threading
from contextlib import suppress
from typing import Final, Literal

from PIL import Image

from contract.failure import FailureCode, Refusal
from worker.images.decoder_child import Bounds
from worker.images.decoder_process import DecoderProcess, DiedError
from worker.images.image_file import ImageLimits, decode_image
from worker.lane import Lane

log = logging.getLogger(__name__)

Isolation = Literal["suspect", "all", "none"]
IMAGES_A_PROCESS: Final = 500
"""Number of images that a process decodes before a fresh one replaces it, so that leaks stay small."""


class Decoder:
    """One per worker, shared by its threads. Its processes start with the first image that needs one."""

    def __init__(
        self,
        limits: ImageLimits,
        isolation: Isolation = "suspect",
        bounds: Bounds | None = None,
        processes: int = 1,
    ) -> None:
        """`isolation` selects the images that processes decode; at most `processes` of these run."""
        self._limits = limits
        self._isolation = isolation
        self._bounds = bounds or Bounds()
        self._free = threading.BoundedSemaphore(processes)
        self._idle: list[DecoderProcess] = []

    def __call__(self, content: bytes, lane: Lane) -> Image.Image:
        """As image_file.decode_image(): an upright image in RGB. A suspect's image may have ended a worker.

        Raises Refusal and DecoderStartError; MemoryError only without a process.
        """
        if self._isolation == "none" or not (lane is Lane.SUSPECT or self._isolation == "all"):
            return decode_image(content, self._limits)
        with self._free:
            warm = self._take_warm()
            if warm is not None:
                # It may die of an earlier image: only a fresh process shows that this one is to blame.
                with suppress(DiedError):
                    return self._by(warm, content)
            try:
                return self._by(DecoderProcess(self._limits, self._bounds), content)
            except DiedError as died:
                log.warning("the decoder of an image %s", died)
                raise Refusal(FailureCode.IMAGE_CRASHED_DECODER, f"The image's decoder {died}.") from None

    def close(self) -> None:
        """End the processes. No image may be under way."""
        while self._idle:
            self._idle.pop().end()

    def _take_warm(self) -> DecoderProcess | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _by(self, process: DecoderProcess, content: bytes) -> Image.Image:
        """The image from this process, which is kept if it can serve the next image and ended otherwise."""
        try:
            return process.decode(content)
        finally:
            if process.usable and process.images < IMAGES_A_PROCESS:
                self._idle.append(process)
            else:
                process.end()
