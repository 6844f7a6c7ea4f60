"""Messages damaged at every level, the same ones for the same seed."""

import base64
import copy
import json
import random
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from contract.broker import INTERACTIVE_QUEUE, JOB_QUEUE, SUSPECT_QUEUE, TASK_NAME
from contract.job import MOST_JOBS
from tests.faults.mutations import DAMAGES

PRIORITIES: Final = ("", "\x06\x163", "\x06\x169")
"""What kombu puts behind a queue's name for its lists of other priorities."""
QUEUES: Final = (*(JOB_QUEUE,) * 8, INTERACTIVE_QUEUE, SUSPECT_QUEUE)
MOST_INDEX: Final = 10_000
"""The store has a bit for each index below one that is answered, and the test's server not so much memory."""
ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 1.5, -0.0, 1e308, float("nan"), float("inf")),
    *(2**31, 2**32, 2**63, -(2**63), 10**40, 10**4299),
    *(
        "",
        "x",
        " ",
        "\x00",
        "\ud800",
        "\U0001f600",
        "é" * 300,
        "a" * 20_000,
        "null",
        "../..",
        "-1",
        "1e9",
        "*",
    ),
    *([], {}, [[]], [None], [1, "a"], {"a": 1}, {"": None}, {"x" * 5000: 1}),
    *({"__type__": "datetime", "__value__": "no"}, {"__type__": "uuid", "__value__": 7}),
    *({"__type__": "x", "__value__": 1}, {"__type__": [], "__value__": 1}),
    *(TASK_NAME, "celery.backend_cleanup", "celery.chain", "application/x-python-serialize", "gzip"),
)
RAW: Final = (
    *(
        b"",
        b"null",
        b"[]",
        b"{}",
        b"7",
        b'"x"',
        b"true",
        b"\xff\xfe",
        b"\x00",
        b"{",
        b"NaN",
        b"-",
        b"\xef\xbb\xbf{}",
    ),
    *(b"[" * 150, b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000, b"9" * 5000),
    *(b'"\\ud800"', b'{"headers":' + b'{"a":' * 3000 + b"1" + b"}" * 3001, b"\x80\x04K\x01."),
    *(b'{"properties": {}}', b'{"body": "x", "properties": {"delivery_tag": "a", "delivery_info": "a"}}'),
    b"x" * 2_000_000,
)
EMBEDDED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Message(NamedTuple):
    """What to push, into which queue, and in how many records and dead letters together it must end."""

    queue: str
    raw: bytes
    ends: int = 1


def good_job(chance: random.Random) -> dict[str, Any]:
    """A job of its own run, so that no two messages have the same job."""
    job: dict[str, Any] = {
        "version": 1,
        "run": f"fuzz-{chance.getrandbits(64):016x}",
        "index": 0,
        "questions": [{"id": "q1", "messages": "What is it?"}],
        "parameters": {"max_new_tokens": 2},
        "detail": "low",
    }
    job |= chance.choice(
        (
            {},
            {"image": {"kind": "path", "path": "a.png"}},
            {"image": {"kind": "path", "path": "nowhere.png", "encoding": "latin-1"}},
            {"image": {"kind": "inline", "base64": base64.b64encode(b"no image").decode()}},
            {"image": {"kind": "url", "url": "http://example.invalid/a.png"}},
            {"image": {"kind": "stored", "sha256": "0" * 64}},
            {"image": {"kind": "member", "path": "a.tar", "offset": 512, "size_bytes": 9, "name": "a"}},
            {"questions": [{"id": "q1", "messages": "Is it?", "choices": ["yes", "no"]}], "parameters": {}},
            {"parameters": {"max_new_tokens": 2, "num_beams": 2, "early_stopping": True, "stop": ["x"]}},
            {"parameters": {"max_new_tokens": 2, "do_sample": True, "top_k": 5, "top_p": 0.5, "seed": 3}},
            {"parameters": {"max_new_tokens": 2, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2}},
            {"deadline": 4e9, "model": None, "stream": True},
            {"questions": [{"id": "q1", "messages": [{"role": "user", "content": "Hello"}]}]},
        )
    )
    return job


def good_message(chance: random.Random) -> dict[str, Any]:
    return {
        "body": [[good_job(chance)], {}, dict(EMBEDDED)],
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK_NAME,
            "id": "fuzz",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "x",
            "parent_id": None,
            "argsrepr": "-",
            "kwargsrepr": "-",
            "origin": "x",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": "x",
            "reply_to": "x",
            "delivery_mode": 2,
            "priority": 0,
            "delivery_info": {"exchange": "", "routing_key": JOB_QUEUE},
            "body_encoding": "base64",
            "delivery_tag": str(uuid.UUID(int=chance.getrandbits(128))),
        },
    }


def mutated(count: int, seed: int) -> Iterator[Message]:
    """First each of the raw messages into each queue, then so many random ones."""
    for queue in dict.fromkeys(QUEUES):
        for raw in RAW:
            yield Message(queue, raw)
    chance = random.Random(seed)
    for _ in range(count):
        queue = chance.choice(QUEUES)
        if queue == JOB_QUEUE:
            queue += chance.choice(PRIORITIES)
        raw, ends = chance.choice(LEVELS)(good_message(chance), chance)
        yield Message(queue, raw, ends)


def written(message: dict[str, Any]) -> bytes:
    """The message as kombu writes it; a body in bytes counts as JSON already."""
    body = message["body"]
    if isinstance(body, list):
        body = json.dumps(body).encode()
    if isinstance(body, bytes):
        body = base64.b64encode(body).decode()
    return json.dumps({**message, "body": body}).encode()


def _item(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    """The bytes in the list; spliced ones have another message's end."""
    return _damaged(written(message), written(good_message(chance)), chance), 1


def _body(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    body, other = (json.dumps(one["body"]).encode() for one in (message, good_message(chance)))
    message["body"] = _damaged(body, other, chance)
    return written(message), 1


def _envelope(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    """Its fields, its headers, its properties: one is odd, or gone."""
    within = chance.choice((message, message["headers"], message["properties"]))
    within = chance.choice((within, within, message["properties"]["delivery_info"]))
    _make_odd(within, chance)
    return json.dumps(message).encode() if "body" not in message else written(message), 1


def _encoded(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    """The body's text between base64 and the envelope."""
    text = base64.b64encode(json.dumps(message["body"]).encode()).decode()
    place = chance.randrange(len(text))
    message["body"] = chance.choice(
        (
            text[:place],
            text[:place] + chance.choice("!\n\x00é=%") + text[place:],
            chance.choice(ODD),
            base64.b64encode(chance.randbytes(chance.randrange(200))).decode(),
            text.rstrip("=") + "===",
        )
    )
    return json.dumps(message).encode(), 1


def _task(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    """Arguments, named arguments, options."""
    arguments, named, options = message["body"]
    if chance.random() < 0.4:
        odd = [chance.choice(ODD) for _ in range(chance.randrange(4))]
        message["body"] = [odd, named, options]
        # Of a whole list that cannot be read there is one letter.
        return written(message), 1 if _unreadable(odd) else len(odd)
    if chance.random() < 0.5:
        _make_odd(options, chance)
    else:
        place = chance.choice((0, 1, 2))
        message["body"][place] = chance.choice([one for one in ODD if not isinstance(one, list)])
    assert arguments
    return written(message), 1


def _unreadable(arguments: list[Any]) -> bool:
    text = json.dumps(arguments)
    return not arguments or "__type__" in text or "\\ud800" in text


def _job(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    """Anywhere within the job, one to three times."""
    [[job], _, _] = message["body"]
    own = job["run"]
    own = job["run"]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        containers = list(_containers(job))
        _make_odd(chance.choice(containers), chance)
    if isinstance(job.get("run"), str):
        job["run"] += own[4:]  # else two messages could tell the same job
    if isinstance(job.get("run"), str):
        job["run"] += own[4:]  # else two messages could tell the same job
    if type(job.get("index")) is int and MOST_INDEX < job["index"] < MOST_JOBS:
        job["index"] = MOST_JOBS
    return written(message), 1


EDGES: Final[tuple[dict[str, Any], ...]] = (
    {"parameters": {"max_new_tokens": 2**63, "stop": ["e"]}},
    {"parameters": {"max_new_tokens": 2, "no_repeat_ngram_size": 10**30}},
    {"parameters": {"max_new_tokens": 2, "repetition_penalty": 1e-6}},
    {"parameters": {"max_new_tokens": 2, "repetition_penalty": 1e6}},
    {"parameters": {"max_new_tokens": 2, "length_penalty": -1.7e308, "num_beams": 2}},
    {"parameters": {"max_new_tokens": 2, "length_penalty": 1.7e308}},
    {"parameters": {"max_new_tokens": 2, "num_beams": 64, "num_return_sequences": 64}},
    {"parameters": {"max_new_tokens": 2, "do_sample": True, "num_return_sequences": 64}},
    {"parameters": {"max_new_tokens": 2, "do_sample": True, "top_k": 10**30, "seed": 2**63 - 1}},
    {"parameters": {"max_new_tokens": 2, "do_sample": True, "temperature": 1e-6, "top_k": 0}},
    {"parameters": {"max_new_tokens": 2, "do_sample": True, "temperature": 1e6, "min_p": 1.0}},
    {"parameters": {"max_new_tokens": 2, "do_sample": True, "top_p": 5e-324}},
    {"parameters": {"max_new_tokens": 2, "stop": ["\x00", "\U0001f600" * 500, *"abcdefghijklmn"]}},
    {"parameters": {"max_new_tokens": 2, "min_new_tokens": 2, "stop": [" "]}},
    {"deadline": -1.7e308},
    {"deadline": 1.7e308},
    {"model": ""},
    {"image": {"kind": "path", "path": "a.png"}, "detail": 1024},
    {"image": {"kind": "path", "path": "a\x00.png"}},
    {"image": {"kind": "path", "path": "a" * 10_000}},
    {"image": {"kind": "path", "path": "/dev/zero"}},
    {"image": {"kind": "path", "path": "é€", "encoding": "latin-1"}},
    {"image": {"kind": "member", "path": "a.png", "offset": 2**63, "size_bytes": 2**62, "name": ""}},
    {"image": {"kind": "member", "path": "a.png", "offset": 0, "size_bytes": 2**70, "name": "\x00"}},
    {"image": {"kind": "url", "url": "x://" + "a" * 10_000}},
    {"image": {"kind": "url", "url": "http://[::1"}},
    {"image": {"kind": "url", "url": "http://\U0001f600:99999999/\x00"}},
    {"image": {"kind": "inline", "base64": ""}},
    {"questions": [{"id": "q1", "messages": "<image>" * 50}]},
    {"questions": [{"id": "q1", "messages": "\x00\u200b{{ 7 * 7 }}{% for i in range(9) %}"}]},
    {"questions": [{"id": "q1", "messages": "word " * 20_000}]},
    {"questions": [{"id": f"q{number}", "messages": "Is it?"} for number in range(100)]},
    {"questions": [{"id": "q1", "messages": "Is it?", "choices": ["y", "n" * 9000]}], "parameters": {}},
    {"questions": [{"id": "\x00" * 9000, "messages": "Is it?"}]},
)
"""Jobs that keep to the contract, at its edges."""


def _edge(message: dict[str, Any], chance: random.Random) -> tuple[bytes, int]:
    [[job], _, _] = message["body"]
    job |= chance.choice(EDGES)
    return written(message), 1


def _whole(message: dict[str, Any], _: random.Random) -> tuple[bytes, int]:
    return written(message), 1


LEVELS: Final[tuple[Callable[[dict[str, Any], random.Random], tuple[bytes, int]], ...]] = (
    *(_item, _body, _envelope, _envelope, _encoded, _task, _job, _job),
    *(_edge, _whole),
)


def _damaged(content: bytes, other: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2))):
        content = chance.choice(DAMAGES)(content, [other], chance)
    return content


def _containers(value: Any) -> Iterator[dict[Any, Any] | list[Any]]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


def _make_odd(value: dict[Any, Any] | list[Any], chance: random.Random) -> None:
    odd = copy.deepcopy(chance.choice(ODD))
    if isinstance(value, list):
        if value and chance.random() < 0.7:
            value[chance.randrange(len(value))] = odd
        else:
            value.append(odd)
        return
    if value and chance.random() < 0.2:
        del value[chance.choice(list(value))]
    elif chance.random() < 0.1:
        value["unknown"] = odd
    elif value:
        value[chance.choice(list(value))] = odd
