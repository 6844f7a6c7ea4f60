"""Bounds OpenVINO's caches and the C library's heaps, so that a process's memory stays flat; knows no model.

docs/log.md has the measured effect of each of the three.
"""

import ctypes
import os
from typing import Final

RUNTIME_CACHE: Final = {"CPU_RUNTIME_CACHE_CAPACITY": "100"}
"""Number of compiled shapes that each stream of OpenVINO's CPU plugin keeps; its default is 5,000."""
PRIMITIVE_CACHE: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""Environment variable and number of primitives that oneDNN keeps, one level below; its default is 1,024."""
M_ARENA_MAX: Final = -8
"""Number of the mallopt() parameter, from malloc.h."""


def bound_caches() -> None:
    """Bound the caches of this process; call it before the first model is compiled.

    Values that the environment sets are kept. All threads share one heap: with one each, memory that a thread
    frees is not there for the others.
    """
    os.environ.setdefault(*PRIMITIVE_CACHE)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # C libraries other than glibc have no mallopt(), and no heap for each thread.
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)
