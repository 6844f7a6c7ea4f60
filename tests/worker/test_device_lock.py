"""The lock of a device: one holder, those who come first before those who come last."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from worker.device_lock import DeviceLock

PATIENCE_S = 20


class Thread(threading.Thread):
    """Holds the lock once and writes its name down then."""

    def __init__(self, name: str, hold: Callable[[], AbstractContextManager[None]], order: list[str]) -> None:
        super().__init__(daemon=True)
        self._own, self._hold, self._order = name, hold, order

    def run(self) -> None:
        with self._hold():
            self._order.append(self._own)


def test_first_goes_before_last_whoever_waited_longer() -> None:
    lock = DeviceLock()
    order: list[str] = []
    with lock.last():
        threads = [Thread("last", lock.last, order), *(Thread("first", lock.first, order) for _ in range(3))]
        for thread in threads:
            thread.start()
        while lock.first_waiting < 3:
            pass
        assert order == []
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["first"] * 3 + ["last"]


def test_one_at_a_time_also_after_an_error() -> None:
    lock = DeviceLock()
    holding = most = 0

    def hold(of: Callable[[], AbstractContextManager[None]]) -> None:
        nonlocal holding, most
        for _ in range(200):
            try:
                with of():
                    holding += 1
                    most = max(most, holding)
                    holding -= 1
                    raise RuntimeError
            except RuntimeError:
                pass

    threads = [threading.Thread(target=hold, args=[of]) for of in (lock.first, lock.first, lock.last)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert most == 1


def test_urgent_goes_before_first_whoever_waited_longer() -> None:
    lock = DeviceLock()
    order: list[str] = []
    with lock.first():
        threads = [
            Thread("first", lock.first, order),
            Thread("urgent", lambda: lock.first(urgent=True), order),
            Thread("last", lock.last, order),
        ]
        for thread in threads:
            thread.start()
        while not (lock.first_waiting and lock.urgent_waiting):
            pass
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["urgent", "first", "last"]


def test_who_waits_by_last_may_become_urgent() -> None:
    lock = DeviceLock()
    order: list[str] = []
    urgent = threading.Event()
    with lock.first():
        threads = [
            Thread("first", lock.first, order),
            Thread("last", lambda: lock.last(urgent.is_set), order),
        ]
        for thread in threads:
            thread.start()
        while not lock.first_waiting:
            pass
        assert lock.urgent_waiting == 0
        urgent.set()
        while lock.urgent_waiting == 0:
            pass
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["last", "first"]


def test_nobody_waits_for_ever_while_ranks_change() -> None:
    lock = DeviceLock()
    urgent = threading.Event()
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            urgent.set()
            urgent.clear()

    def hold(of: Callable[[], AbstractContextManager[None]]) -> None:
        for _ in range(300):
            with of():
                pass

    changing = threading.Thread(target=change)
    changing.start()
    holds = (lock.first, lock.first, lambda: lock.last(urgent.is_set))
    threads = [threading.Thread(target=hold, args=[of], daemon=True) for of in holds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    ended.set()
    changing.join()
    assert not any(thread.is_alive() for thread in threads)


def test_kept_free_only_urgent_ones_get_it_until_the_end() -> None:
    lock = DeviceLock()
    order: list[str] = []
    urgent_now = threading.Event()
    with lock.kept_free():
        threads = [
            Thread("first", lock.first, order),
            Thread("last", lambda: lock.last(urgent_now.is_set), order),
        ]
        for thread in threads:
            thread.start()
        with lock.kept_free():
            urgent = Thread("urgent", lambda: lock.first(urgent=True), order)
            urgent.start()
            urgent.join(PATIENCE_S)
            assert order == ["urgent"]
            while lock.first_waiting < 1:
                pass
            urgent_now.set()
        threads[1].join(PATIENCE_S)
        assert order == ["urgent", "last"]
    threads[0].join(PATIENCE_S)
    assert order == ["urgent", "last", "first"]


def test_kept_free_while_another_holds_it() -> None:
    lock = DeviceLock()
    order: list[str] = []
    with lock.kept_free():
        with lock.last(lambda: True):
            waiting = Thread("first", lock.first, order)
            waiting.start()
            while not lock.first_waiting:
                pass
        assert order == []
    waiting.join(PATIENCE_S)
    assert order == ["first"]
