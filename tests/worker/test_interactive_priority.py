"""The right of way: nobody passes while it is claimed, and who has passed goes on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worker.interactive_priority import RightOfWay

PATIENCE_S = 20
SOON_S = 0.2


class Thread(threading.Thread):
    """Gives way once."""

    def __init__(self, way: RightOfWay) -> None:
        super().__init__(daemon=True)
        self._way = way
        self.start()

    def run(self) -> None:
        self._way.give()

    def waits(self) -> bool:
        self.join(SOON_S)
        return self.is_alive()

    def passes(self) -> bool:
        self.join(PATIENCE_S)
        return not self.is_alive()


def test_nobody_passes_until_the_last_claim_is_gone() -> None:
    way = RightOfWay()
    assert Thread(way).passes()
    with way.claimed():
        with way.claimed():
            threads = [Thread(way), Thread(way)]
            assert threads[0].waits()
        assert threads[0].waits()
        assert threads[1].is_alive()
    assert all(thread.passes() for thread in threads)


def test_an_error_gives_back_what_was_claimed() -> None:
    way = RightOfWay()
    with suppress(RuntimeError), way.claimed():
        raise RuntimeError
    assert Thread(way).passes()


def test_the_device_is_kept_free_as_long() -> None:
    kept: list[str] = []

    @contextmanager
    def kept_free() -> Iterator[None]:
        kept.append("begun")
        yield
        kept.append("ended")

    way = RightOfWay(kept_free)
    with way.claimed():
        assert kept == ["begun"]
    assert kept == ["begun", "ended"]
