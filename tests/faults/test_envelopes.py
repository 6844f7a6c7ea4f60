"""Whatever bytes are in a queue: the worker lives, and every message ends in a record or a dead letter.

The worker is the real one with the demo model, as a job's parameters may also break the engine.
"""

import itertools
import json
from typing import Any, Final

import pytest
from PIL import Image

from contract.broker import INTERACTIVE_QUEUE, JOB_QUEUE, SUSPECT_QUEUE
from contract.store import DEAD_LETTERS_KEY
from tests.faults.conftest import MakeSite, assert_kept
from tests.faults.envelopes import PRIORITIES, Message, mutated
from tests.faults.site import REAL, Site
from tests.worker.test_envelope import UNREADABLE, changed
from worker.delivery.envelope import SHOWN_BYTES
from worker.delivery.results import DEAD_LETTER_MAX_CHARACTERS

TOGETHER: Final = 500
"""Messages that lie in the queues at once."""
LISTS: Final = [*(JOB_QUEUE + priority for priority in PRIORITIES), INTERACTIVE_QUEUE, SUSPECT_QUEUE]


def start(site: Site) -> Any:
    Image.new("RGB", (30, 20)).save(site.folder / "a.png")
    [worker] = site.start_workers(1, app=REAL, slots=4, CAPTIONMILL_URL_HOSTS="none.invalid")
    return worker


def push(site: Site, messages: list[Message]) -> None:
    """Return when all have come to an end, and none is in a queue or with the worker."""
    store = site.server.connection
    for message in messages:
        store.lpush(message.queue, message.raw)
    site.wait_until(lambda: _is_idle(site))
    due = sum(message.ends for message in messages)
    # Between a queue and the hash of what is taken, a message is in neither.
    site.wait_until(lambda: _is_idle(site) and ends(site) >= due)


def _is_idle(site: Site) -> bool:
    dead = [worker.log.read_text()[-3000:] for worker in site.workers if not worker.is_alive()]
    assert dead == [], "a worker has died"
    store = site.server.connection
    return not any(store.llen(name) for name in LISTS) and not site.taken()


def ends(site: Site) -> int:
    """Records of all runs, and dead letters."""
    store = site.server.connection
    streams = list(store.scan_iter("captionmill:{*}:results", count=1000))
    with store.pipeline(transaction=False) as asked:
        for stream in streams:
            asked.xlen(stream)
        records: int = sum(asked.execute())
    return records + int(store.llen(DEAD_LETTERS_KEY))


def forget(site: Site) -> None:
    site.server.connection.delete(DEAD_LETTERS_KEY, *site.server.connection.scan_iter("captionmill:{*}:*"))


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.faults)])
def test_damaged_messages(make_site: MakeSite, count: int) -> None:
    site = make_site(f"{count} damaged messages", bound_s=110 if count < 1000 else 3000, seed=11)
    worker = start(site)
    messages = list(mutated(count, site.seed))
    for begin in range(0, len(messages), TOGETHER):
        part = messages[begin : begin + TOGETHER]
        push(site, part)
        assert ends(site) == sum(message.ends for message in part), f"messages from {begin} on"
        forget(site)
    site.plan_images([site.folder / "a.png"] * 20)
    site.produce()
    result = site.finish(f"each of {len(messages)} ends in a record or a dead letter, and no worker in them")
    assert_kept(result)
    assert result.failed == {}
    worker.terminate()
    assert worker.process.wait() == 0


def test_each_dead_letter_tells_why(make_site: MakeSite) -> None:
    """In each queue, of a live worker; what it was not sent for never runs."""
    site = make_site("each dead letter tells why", bound_s=110)
    worker = start(site)
    cases = [
        (Message(queue, changed(change, seed)), reason)
        for seed, (queue, (change, reason)) in enumerate(itertools.product(LISTS, UNREADABLE))
    ]
    push(site, [message for message, _ in cases])
    letters = [json.loads(one) for one in site.server.connection.lrange(DEAD_LETTERS_KEY, 0, -1)]
    told = {letter["message"]: letter["reason"] for letter in letters}
    for message, reason in cases:
        shown = repr(message.raw[:SHOWN_BYTES].decode())[:DEAD_LETTER_MAX_CHARACTERS]
        assert reason in told.get(shown, "no letter"), shown[:200]
    worker.terminate()
    assert worker.process.wait() == 0
