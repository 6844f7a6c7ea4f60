"""One computes at a time, interactive work first; others wait while an interactive job is on its way."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest

from worker.device_scheduler import INTERACTIVE, LANGUAGE, VISION, DeviceScheduler
from worker.lane import Lane

PATIENCE_S = 20
SOON_S = 0.2

Turn = Callable[[], AbstractContextManager[None]]


class Thread(threading.Thread):
    """Takes one turn and notes its name then."""

    def __init__(self, name: str, turn: Turn, order: list[str]) -> None:
        super().__init__(daemon=True)
        self._own, self._turn, self._order = name, turn, order
        self.start()

    def run(self) -> None:
        with self._turn():
            self._order.append(self._own)

    def waits(self) -> bool:
        self.join(SOON_S)
        return self.is_alive()

    def passes(self) -> bool:
        self.join(PATIENCE_S)
        return not self.is_alive()


class Site:
    """A device scheduler, its turns as functions, and the order in which threads had theirs."""

    def __init__(self) -> None:
        self.device = DeviceScheduler(image_turns=1)
        self.order: list[str] = []
        self.prompt_is_interactive = threading.Event()

    def vision(self, lane: Lane = Lane.BULK) -> Thread:
        name = "interactive" if lane is Lane.INTERACTIVE else "vision"
        return Thread(name, lambda: self.device.vision_turn(lane), self.order)

    def language(self) -> Thread:
        is_interactive = self.prompt_is_interactive.is_set
        return Thread("language", lambda: self.device.language_turn(is_interactive), self.order)

    def wait_for(self, count: int, rank: int) -> None:
        while self.device.waiting(rank) < count:
            pass


@pytest.fixture
def site() -> Site:
    return Site()


def test_vision_goes_before_language_whoever_waited_longer(site: Site) -> None:
    with site.device.language_turn(lambda: False):
        threads = [site.language()]
        site.wait_for(1, LANGUAGE)
        threads += [site.vision() for _ in range(3)]
        site.wait_for(3, VISION)
        assert site.order == []
    assert all(thread.passes() for thread in threads)
    assert site.order == ["vision"] * 3 + ["language"]


def test_one_computes_at_a_time_also_after_an_error(site: Site) -> None:
    computing = most = 0

    def compute(turn: Turn) -> None:
        nonlocal computing, most
        for _ in range(200):
            with suppress(RuntimeError), turn():
                computing += 1
                most = max(most, computing)
                computing -= 1
                raise RuntimeError

    device = site.device
    turns: list[Turn] = [
        lambda: device.vision_turn(Lane.BULK),
        lambda: device.vision_turn(Lane.INTERACTIVE),
        lambda: device.language_turn(lambda: False),
    ]
    threads = [threading.Thread(target=compute, args=[turn], daemon=True) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert most == 1


def test_interactive_vision_goes_before_what_waited_longer(site: Site) -> None:
    with site.device.vision_turn(Lane.BULK):
        threads = [site.vision(), site.vision(Lane.INTERACTIVE), site.language()]
        site.wait_for(1, VISION)
        site.wait_for(1, INTERACTIVE)
        site.wait_for(1, LANGUAGE)
    assert all(thread.passes() for thread in threads)
    assert site.order == ["interactive", "vision", "language"]


def test_a_language_turn_that_waits_may_become_interactive(site: Site) -> None:
    with site.device.vision_turn(Lane.BULK):
        threads = [site.vision(), site.language()]
        site.wait_for(1, VISION)
        site.wait_for(1, LANGUAGE)
        site.prompt_is_interactive.set()
        site.wait_for(1, INTERACTIVE)
    assert all(thread.passes() for thread in threads)
    assert site.order == ["language", "vision"]


def test_nobody_waits_for_ever_while_ranks_change(site: Site) -> None:
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            site.prompt_is_interactive.set()
            site.prompt_is_interactive.clear()

    def compute(turn: Turn) -> None:
        for _ in range(300):
            with turn():
                pass

    changing = threading.Thread(target=change)
    changing.start()
    turns: list[Turn] = [
        lambda: site.device.vision_turn(Lane.BULK),
        lambda: site.device.vision_turn(Lane.BULK),
        lambda: site.device.language_turn(site.prompt_is_interactive.is_set),
    ]
    threads = [threading.Thread(target=compute, args=[turn], daemon=True) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    ended.set()
    changing.join()
    assert not any(thread.is_alive() for thread in threads)


def test_while_an_interactive_job_is_on_its_way_only_interactive_work_begins(site: Site) -> None:
    with site.device.interactive_turn(Lane.INTERACTIVE):
        threads = [site.vision(), site.language()]
        with site.device.interactive_turn(Lane.INTERACTIVE):
            assert site.vision(Lane.INTERACTIVE).passes()
            assert site.order == ["interactive"]
            site.wait_for(1, VISION)
            site.wait_for(1, LANGUAGE)
            site.prompt_is_interactive.set()
        assert threads[1].passes()
        assert site.order == ["interactive", "language"]
    assert threads[0].passes()
    assert site.order == ["interactive", "language", "vision"]


def test_a_turn_that_ends_meanwhile_is_followed_by_no_bulk_turn(site: Site) -> None:
    with site.device.interactive_turn(Lane.INTERACTIVE):
        with site.device.language_turn(lambda: True):
            waiting = site.vision()
            site.wait_for(1, VISION)
        assert waiting.waits()
    assert waiting.passes()


@pytest.mark.parametrize("lane", [Lane.BULK, Lane.SUSPECT])
def test_others_yield_until_the_last_interactive_job_is_through(site: Site, lane: Lane) -> None:
    def yields() -> Thread:
        def turn() -> AbstractContextManager[None]:
            site.device.yield_to_interactive(lane)
            return nullcontext()

        return Thread("yielded", turn, site.order)

    assert yields().passes()
    with site.device.interactive_turn(Lane.INTERACTIVE):
        with site.device.interactive_turn(Lane.INTERACTIVE):
            threads = [yields(), Thread("image", lambda: site.device.image_turn(lane), site.order)]
            assert all(thread.waits() for thread in threads)
        assert all(thread.waits() for thread in threads)
        site.device.yield_to_interactive(Lane.INTERACTIVE)
    assert all(thread.passes() for thread in threads)


def test_an_error_ends_an_interactive_turn(site: Site) -> None:
    with suppress(RuntimeError), site.device.interactive_turn(Lane.INTERACTIVE):
        raise RuntimeError
    site.device.yield_to_interactive(Lane.BULK)


def test_a_bulk_job_has_no_interactive_turn(site: Site) -> None:
    with site.device.interactive_turn(Lane.BULK), site.device.interactive_turn(Lane.SUSPECT):
        site.device.yield_to_interactive(Lane.BULK)
        assert site.vision().passes()


def test_images_are_made_ready_in_turns_but_interactive_ones_at_once(site: Site) -> None:
    with site.device.image_turn(Lane.BULK):
        waiting = Thread("image", lambda: site.device.image_turn(Lane.SUSPECT), site.order)
        assert waiting.waits()
        with site.device.image_turn(Lane.INTERACTIVE):
            pass
    assert waiting.passes()
