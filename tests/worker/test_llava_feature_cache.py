"""The cache of image features keeps its budget, encodes once at a time and keeps no failure."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from contract.failure import FailureCode, Refusal
from tests.support.processes import wait_until
from worker.llava.arrays import FloatArray
from worker.llava.feature_cache import FeatureCache

ROW_BYTES = 40


class Encoder:
    """Features of the rows asked for, and how often each key was encoded."""

    def __init__(self, cache: FeatureCache[FloatArray]) -> None:
        self.cache = cache
        self.encoded: list[bytes] = []

    def get(self, key: bytes, rows: int = 1) -> FloatArray:
        def encode() -> FloatArray:
            self.encoded.append(key)
            return np.full((rows, ROW_BYTES // 4), len(self.encoded), dtype=np.float32)

        return self.cache.get(key, encode)


def test_what_was_encoded_is_kept_and_cannot_be_changed() -> None:
    encoder = Encoder(FeatureCache(10 * ROW_BYTES))
    first = encoder.get(b"a")
    assert encoder.get(b"a") is first
    assert encoder.encoded == [b"a"]
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 7


def test_the_least_lately_used_leave_when_bytes_run_out() -> None:
    encoder = Encoder(FeatureCache(4 * ROW_BYTES))
    encoder.get(b"a")
    encoder.get(b"b", rows=2)
    encoder.get(b"c")
    encoder.get(b"a")
    encoder.get(b"d")
    assert encoder.encoded == [b"a", b"b", b"c", b"d"]
    for key in (b"a", b"c", b"d"):
        encoder.get(key)
    assert encoder.encoded == [b"a", b"b", b"c", b"d"]
    encoder.get(b"b", rows=2)
    assert encoder.encoded == [b"a", b"b", b"c", b"d", b"b"]


def test_the_bytes_of_what_left_are_free_again() -> None:
    encoder = Encoder(FeatureCache(3 * ROW_BYTES))
    for round_ in range(50):
        encoder.get(f"{round_}".encode(), rows=2)
    encoder.get(b"x")
    encoder.get(b"49", rows=2)
    assert len(encoder.encoded) == 51


@pytest.mark.parametrize("budget_rows", [0, 2])
def test_what_is_larger_than_the_budget_is_given_but_not_kept(budget_rows: int) -> None:
    encoder = Encoder(FeatureCache(budget_rows * ROW_BYTES))
    encoder.get(b"small", rows=budget_rows)
    assert encoder.get(b"large", rows=3).shape[0] == 3
    encoder.get(b"large", rows=3)
    assert encoder.encoded[1:] == [b"large", b"large"]
    encoder.get(b"small", rows=budget_rows)
    assert encoder.encoded.count(b"small") == 1


@pytest.mark.parametrize("budget_bytes", [0, 1000])
def test_threads_that_ask_at_once_share_one_encoding(budget_bytes: int) -> None:
    cache = FeatureCache[FloatArray](budget_bytes)
    go, calls = threading.Event(), []

    def encode() -> FloatArray:
        calls.append(threading.get_ident())
        go.wait()
        return np.ones((1, 4), dtype=np.float32)

    found = _together(cache, encode, go, threads=8)
    assert len(calls) == 1
    assert all(isinstance(one, np.ndarray) and one is found[0] for one in found)


def test_another_image_does_not_wait() -> None:
    cache, go = FeatureCache[FloatArray](1000), threading.Event()

    def held() -> FloatArray:
        go.wait()
        return np.zeros((1, 4), dtype=np.float32)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.get, b"slow", held)
        assert cache.get(b"quick", lambda: np.ones((1, 4), dtype=np.float32)).sum() == 4
        go.set()
        assert slow.result().sum() == 0


def test_who_does_not_share_waits_for_no_other() -> None:
    cache, begun, go = FeatureCache[FloatArray](1000), threading.Event(), threading.Event()

    def held() -> FloatArray:
        begun.set()
        go.wait()
        return np.zeros((1, 4), dtype=np.float32)

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(cache.get, b"key", held)
        try:
            wait_until(begun.is_set)
            own = cache.get(b"key", lambda: np.ones((1, 4), dtype=np.float32), share=False)
            assert own.sum() == 4
            assert not own.flags.writeable
        finally:
            go.set()
        assert slow.result().sum() == 0
    assert cache.get(b"key", held, share=False).sum() == 0


@pytest.mark.parametrize("error", [Refusal(FailureCode.IMAGE_BROKEN, "Broken."), MemoryError(), SystemExit()])
def test_a_failure_reaches_all_who_wait_and_is_not_kept(error: BaseException) -> None:
    cache, go = FeatureCache[FloatArray](1000), threading.Event()

    def fail() -> FloatArray:
        go.wait()
        raise error

    assert _together(cache, fail, go, threads=4) == [error] * 4
    assert cache.get(b"key", lambda: np.ones((1, 4), dtype=np.float32)).sum() == 4


def _together(
    cache: FeatureCache[FloatArray], encode: Callable[[], FloatArray], go: threading.Event, threads: int
) -> list[FloatArray | BaseException]:
    """What threads get when one of them encodes and waits until all the others wait for it."""
    found: list[FloatArray | BaseException] = []

    def ask() -> None:
        try:
            found.append(cache.get(b"key", encode))
        except BaseException as error:  # noqa: BLE001 - that is what is looked at
            found.append(error)

    running = [threading.Thread(target=ask, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    wait_until(lambda: sum(map(_waits_for_another, running)) == threads - 1)
    go.set()
    for thread in running:
        thread.join()
    return found


def _waits_for_another(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not Future.result.__code__:
        frame = frame.f_back
    return frame is not None
