"""What a queue holds, as kombu and Celery get it; tests/faults/test_envelopes.py fuzzes a live worker."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from kombu.utils.json import loads

from contract.broker import MESSAGE_MAX_BYTES, TASK_NAME
from tests.faults.envelopes import RAW, good_message, mutated, written
from worker.delivery.envelope import SHOWN_BYTES, dead_letter, readable

QUEUE = "captionmill.jobs"


def message(seed: int = 1) -> dict[str, Any]:
    return good_message(random.Random(seed))


def arguments(raw: bytes) -> list[Any]:
    """As a task gets them: kombu reads the envelope and Celery its body."""
    envelope = loads(raw.decode())
    assert envelope["properties"]["delivery_info"] == {"exchange": "", "routing_key": QUEUE}
    assert envelope["properties"]["body_encoding"] == "base64"
    assert envelope["headers"]["task"] == TASK_NAME
    assert (envelope["content-type"], envelope["content-encoding"]) == ("application/json", "utf-8")
    found, named, options = loads(base64.b64decode(envelope["body"]))
    assert (named, options) == ({}, {})
    assert isinstance(found, list)
    return found


def with_field(place: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Places are written as headers/eta."""

    def change(whole: dict[str, Any]) -> None:
        *outer, last = place.split("/")
        within = whole
        for name in outer:
            within = within[name]
        within[last] = value

    return change


def without(place: str) -> Callable[[dict[str, Any]], None]:
    def change(whole: dict[str, Any]) -> None:
        whole.pop(place)

    return change


def changed(change: Callable[[dict[str, Any]], None], seed: int = 1) -> bytes:
    """The message as it lies in a queue; its job is another one with another seed."""
    whole = message(seed)
    change(whole)
    return json.dumps(whole).encode() if "body" not in whole else written(whole)


UNREADABLE: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (with_field("headers", None), "the message has no headers"),
    (without("headers"), "the message has no headers"),
    (with_field("headers", []), "the message has no headers"),
    (with_field("headers/task", None), "the message is for the task null"),
    (with_field("headers/task", []), "the message is for the task []"),
    (with_field("headers/task", "celery.backend_cleanup"), 'for the task "celery.backend_cleanup"'),
    (with_field("headers/task", "x" * 9999), "x…"),
    (with_field("headers/eta", "2099-01-01T00:00:00"), "the message's headers ask for eta"),
    (with_field("headers/expires", "no date"), "the message's headers ask for expires"),
    (with_field("headers/timelimit", [1, None]), "the message's headers ask for timelimit"),
    (with_field("headers/compression", "gzip"), "the message's headers ask for compression"),
    (with_field("content-type", None), "the message's content-type is null and not application/json"),
    (with_field("content-type", "application/x-python-serialize"), "the message's content-type is"),
    (with_field("content-encoding", "binary"), 'the message\'s content-encoding is "binary" and not utf-8'),
    (with_field("content-encoding", 7), "the message's content-encoding is 7"),
    (without("properties"), "the message has no properties"),
    (with_field("properties", "x"), "the message has no properties"),
    (with_field("properties/body_encoding", "rot13"), 'the message\'s body_encoding is "rot13"'),
    (with_field("properties/body_encoding", []), "the message's body_encoding is []"),
    (without("body"), "the message's body is not text"),
    (with_field("body", 7), "the message's body is not text"),
    (with_field("body", "no base64!"), "the message's body is not base64"),
    (with_field("body", "aGE"), "the message's body is not base64"),
    (with_field("body", b"no JSON"), "the message's body is not JSON"),
    (with_field("body", b"\xff"), "the message's body is not JSON"),
    (with_field("body", b"[" * 100_000), "the message's body is not JSON"),
    (with_field("body", b"7"), "the message's body is not [arguments, named arguments, options]"),
    (with_field("body", [[1], {}]), "the message's body is not [arguments, named arguments, options]"),
    (with_field("body", [[], {}, {}]), "the message has no jobs"),
    (with_field("body", [{"a": 1}, {}, {}]), "the message has no jobs"),
    (with_field("body", [[1], {"a": 1}, {}]), "the message has named arguments"),
    (with_field("body", [[1], {}, 7]), "the options in the message's body are not a JSON object"),
    (with_field("body", [[1], {}, {"chord": {"task": "x"}}]), "the message's body ask for chord"),
    (with_field("body", [[1], {}, {"errbacks": [{"task": "x"}]}]), "the message's body ask for errbacks"),
    (
        with_field("body", [[{"run": {"__type__": "datetime", "__value__": "x"}}], {}, {}]),
        "the message holds a value of another type than JSON's",
    ),
]


@pytest.mark.parametrize(("change", "reason"), UNREADABLE)
def test_an_unreadable_message_is_one_argument_that_tells_why(
    change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    raw = changed(change)
    [argument] = arguments(readable(raw, QUEUE))
    letter = dead_letter(argument)
    assert reason in letter.reason
    assert len(letter.reason) < 300
    assert letter.message == raw[:SHOWN_BYTES].decode()


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_bytes_that_are_no_message(raw: bytes) -> None:
    [argument] = arguments(readable(raw, QUEUE))
    assert dead_letter(argument).reason.startswith("the message ")


def test_a_message_that_is_larger_than_any_is_not_read() -> None:
    whole = message()
    raw = written(whole)
    [argument] = arguments(readable(raw + b" " * (MESSAGE_MAX_BYTES - len(raw)), QUEUE))
    assert argument == whole["body"][0][0]
    [argument] = arguments(readable(raw + b" " * (MESSAGE_MAX_BYTES - len(raw) + 1), QUEUE))
    assert f"at most {MESSAGE_MAX_BYTES} are allowed" in dead_letter(argument).reason


def test_the_jobs_of_a_message_are_as_they_came_and_its_tag_is_new() -> None:
    whole = message()
    jobs = [{"run": "r", "index": 3, "é": [1.5, None]}, 7]
    whole["body"][0] = jobs
    whole["properties"]["delivery_info"] = {"exchange": "elsewhere", "routing_key": "nowhere"}
    once, twice = (readable(written(whole), QUEUE) for _ in range(2))
    assert arguments(once) == jobs
    assert json.loads(once)["headers"]["id"] == "fuzz"
    tags = {json.loads(raw)["properties"]["delivery_tag"] for raw in (once, twice, written(whole))}
    assert len(tags) == 3


def test_what_was_written_anew_is_read_as_the_same() -> None:
    """A message that is put back is read a second time."""
    for number, one in enumerate(mutated(300, 2)):
        first = readable(one.raw, QUEUE)
        put_back = json.loads(first)
        put_back["headers"]["redelivered"] = put_back["properties"]["delivery_info"]["redelivered"] = True
        again = readable(json.dumps(put_back).encode(), QUEUE)
        assert str(arguments(again)) == str(arguments(first)), number


@pytest.mark.parametrize("task_id", [None, 7, "", "a" * 251, "a b", "é"])
def test_an_id_that_is_none_is_replaced(task_id: object) -> None:
    whole = message()
    whole["headers"]["id"] = task_id
    assert json.loads(readable(written(whole), QUEUE))["headers"]["id"] not in (task_id, None, "")
