"""A process keeps one heap for all its threads, unless its environment says otherwise."""

import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ALLOCATING = """
    import ctypes, os, sys, threading
    if sys.argv[2] == "bounded":
        from worker.allocation import bound_caches
        bound_caches()
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    together = threading.Barrier(4)
    def allocate():
        libc.malloc(1000)
        together.wait()
    threads = [threading.Thread(target=allocate) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    print(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
"""


def heaps_and_capacity(info: Path, how: str, environment: dict[str, str]) -> tuple[int, str]:
    """Heaps after four threads allocated at once, and oneDNN's bound, in a new process."""
    kept = {k: v for k, v in os.environ.items() if k != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    command = [sys.executable, "-c", textwrap.dedent(ALLOCATING), str(info), how]
    ran = subprocess.run(command, env={**kept, **environment}, capture_output=True, text=True, check=True)
    return len(ElementTree.parse(info).getroot().findall("heap")), ran.stdout.strip()


def test_one_heap_and_a_small_cache(tmp_path: Path) -> None:
    unbounded, _ = heaps_and_capacity(tmp_path / "info", "not", {})
    assert unbounded > 1
    assert heaps_and_capacity(tmp_path / "info", "bounded", {}) == (1, "64")


def test_the_environment_is_kept(tmp_path: Path) -> None:
    wish = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "7", "MALLOC_ARENA_MAX": "8"}
    heaps, capacity = heaps_and_capacity(tmp_path / "info", "bounded", wish)
    assert heaps > 1
    assert capacity == "7"
