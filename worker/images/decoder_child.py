"""`python -m worker.images.decoder_child LIMITS BOUNDS`: decodes images from stdin; knows no worker.

In a process of its own, a decoder that crashes or never ends takes nothing else with it. The process imports
little, so it starts fast. It has no secret in its memory, its environment or its open files. A request is the
length of an image file (8 bytes) and the file; the next one comes after the answer. An answer begins with
READY (once, before all others), PIXELS, REFUSED or NO_MEMORY.
"""

import json
import math
import os
import resource
import struct
import sys
from dataclasses import dataclass
from typing import BinaryIO, Final

from PIL import AvifImagePlugin, Image

from contract.failure import Refusal
from worker.images.image_file import ImageLimits, decode_image

LENGTH: Final = struct.Struct(">Q")
SIZE: Final = struct.Struct(">II")
READY: Final = b"\x01"
PIXELS: Final = b"\x02"
"""Followed by SIZE with height and width, and 3 bytes for each pixel."""
REFUSED: Final = b"\x03"
"""Followed by LENGTH and a Failure as JSON."""
NO_MEMORY: Final = b"\x04"
OPEN_FILES: Final = 64


@dataclass(frozen=True)
class Bounds:
    """What decoding one image may take; `memory_bytes` are counted beyond what the process starts with."""

    memory_bytes: int = 1_500_000_000
    cpu_s: int = 20
    timeout_s: float = 60.0


def bound(bounds: Bounds) -> None:
    """Limit this process's memory, and let it write no file and leave no core dump."""
    # Address space, not resident pages: where it is exceeded the kernel refuses and does not kill.
    with open("/proc/self/statm", encoding="ascii") as statm:
        taken_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    most_bytes = taken_bytes + bounds.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def serve(requests: BinaryIO, answers: BinaryIO, limits: ImageLimits, bounds: Bounds) -> None:
    """Answer requests until none comes."""
    while header := requests.read(LENGTH.size):
        used = resource.getrusage(resource.RUSAGE_SELF)
        used_s = math.ceil(used.ru_utime + used.ru_stime)
        # The soft limit alone, so that it can be raised for the next image. Exceeding it ends the process.
        resource.setrlimit(resource.RLIMIT_CPU, (used_s + bounds.cpu_s, resource.RLIM_INFINITY))
        try:
            image = decode_image(requests.read(*LENGTH.unpack(header)), limits)
            answers.write(PIXELS + SIZE.pack(image.height, image.width))
            answers.write(image.tobytes())
        except Refusal as refusal:
            failure = refusal.failure.model_dump_json().encode()
            answers.write(REFUSED + LENGTH.pack(len(failure)) + failure)
        except MemoryError:
            answers.write(NO_MEMORY)
        answers.flush()


def main() -> None:
    limits = ImageLimits(**json.loads(sys.argv[1]))
    bounds = Bounds(**json.loads(sys.argv[2]))
    Image.init()
    # Each thread would take address space, and all of them would share the CPU seconds.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    bound(bounds)
    answers.write(READY)
    answers.flush()
    serve(sys.stdin.buffer, answers, limits, bounds)


if __name__ == "__main__":
    main()
