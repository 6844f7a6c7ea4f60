"""Keeps the memory of a process flat over its jobs: what bounds OpenVINO's caches and the C library's pools.

Knows no model. docs/log.md has what each of the three is worth.
"""

import ctypes
import os
from typing import Final

RUNTIME_CACHE: Final = {"CPU_RUNTIME_CACHE_CAPACITY": "100"}
"""Executors kept for shapes seen, in each stream of OpenVINO's CPU plugin, whose default is 5,000."""
PRIMITIVE_CACHE: Final = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""The same one level below, by an environment variable; the default is 1,024."""
M_ARENA_MAX: Final = -8
"""Of malloc.h."""


def bound_caches() -> None:
    """For the process, before its first model is compiled. What the environment sets already is kept.

    One heap for all threads: with one each, what a thread frees is not there for the others.
    """
    os.environ.setdefault(*PRIMITIVE_CACHE)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries than glibc have none, and no heap for each thread either.
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)
