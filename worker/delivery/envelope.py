"""Reads whatever bytes are in a queue and writes messages that kombu can read; knows no broker, no model.

Celery and kombu trust a message's envelope. An envelope that they did not write raises in their event loop
and ends the worker, names another task of Celery, or is dropped without a record. So none of it reaches them:
a message of jobs is written anew from its jobs, and any other becomes a message that ends as a dead letter.
"""

import base64
import binascii
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from contract.broker import MESSAGE_MAX_BYTES, TASK_NAME
from worker.errors import WorkerError, attempt

SHOWN_BYTES: Final = 4096
"""Number of bytes of an unreadable message that its dead letter keeps."""
SHOWN_CHARACTERS: Final = 100
"""Number of characters of a value in a reason."""
TASK_ID: Final = re.compile(r"[\w.:-]{1,250}", re.ASCII)
UNREADABLE: Final = "unreadable"
REASON: Final = "reason"
UNSUPPORTED: Final = {
    "headers": ("compression", "eta", "expires", "timelimit"),
    "body": ("callbacks", "errbacks", "chain", "chord"),
}
"""Features of Celery's messages that no worker here supports."""
KOMBU_TYPE: Final = {"__type__", "__value__"}
"""Keys of an object that kombu decodes into a type outside JSON; decoding may raise."""


class UnreadableError(WorkerError):
    """The bytes hold no message of jobs. The text is the reason in the dead letter."""


class DeadLetter(NamedTuple):
    """What is kept of a message that names no job."""

    message: object
    reason: str


def readable(raw: bytes, queue: str) -> bytes:
    """The message for kombu: its jobs, or one argument that dead_letter() knows. Raises nothing."""
    # Reading may raise anything, MemoryError and RecursionError included.
    found = attempt(lambda: _written(*_read(raw), queue))
    if isinstance(found, bytes):
        return found
    reason = str(found)
    if not isinstance(found, UnreadableError):
        reason = f"the message cannot be read ({type(found).__name__})"
    shown = raw[:SHOWN_BYTES].decode(errors="backslashreplace")
    return _written(None, [{UNREADABLE: shown, REASON: reason}], queue)


def dead_letter(argument: object) -> DeadLetter:
    """The dead letter of a task's argument that is no job."""
    if isinstance(argument, Mapping) and argument.keys() == {UNREADABLE, REASON}:
        return DeadLetter(argument[UNREADABLE], str(argument[REASON]))
    return DeadLetter(argument, "the message has no valid run and index")


def _read(raw: bytes) -> tuple[str | None, Sequence[Any]]:
    """Task id and arguments of a message. Raises UnreadableError, or anything else that the bytes lead to."""
    if len(raw) > MESSAGE_MAX_BYTES:
        raise UnreadableError(f"the message has {len(raw)} bytes; at most {MESSAGE_MAX_BYTES} are allowed")
    envelope = _json(raw, "the message")
    if not isinstance(envelope, dict):
        raise UnreadableError("the message is not a JSON object")
    headers = envelope.get("headers")
    if not isinstance(headers, dict):
        raise UnreadableError("the message has no headers")
    if headers.get("task") != TASK_NAME:
        raise UnreadableError(f"the message is for the task {_shown(headers.get('task'))}, not {TASK_NAME}")
    _refuse_unsupported("headers", headers)
    task_id = headers.get("id")
    known = isinstance(task_id, str) and TASK_ID.fullmatch(task_id) is not None
    return task_id if known else None, _arguments(_json(_body(envelope), "the message's body"))


def _json(text: bytes, what: str) -> Any:
    try:
        # At most 200 brackets deep, so that later readers stay within Python's recursion limit.
        return from_json(text)
    except ValueError:
        raise UnreadableError(f"{what} is not JSON") from None


def _body(envelope: Mapping[str, Any]) -> bytes:
    for field, known in (("content-type", ("application/json",)), ("content-encoding", ("utf-8", "utf8"))):
        if not isinstance(value := envelope.get(field), str) or value.lower() not in known:
            raise UnreadableError(f"the message's {field} is {_shown(value)} and not {known[0]}")
    properties, body = envelope.get("properties"), envelope.get("body")
    if not isinstance(properties, dict):
        raise UnreadableError("the message has no properties")
    if not isinstance(body, str):
        raise UnreadableError("the message's body is not text")
    encoding = properties.get("body_encoding")
    if encoding is None or encoding == "utf-8":
        return body.encode()
    if encoding != "base64":
        raise UnreadableError(f"the message's body_encoding is {_shown(encoding)} and not base64")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error:
        raise UnreadableError("the message's body is not base64") from None


def _arguments(body: Any) -> Sequence[Any]:
    if not isinstance(body, list) or len(body) != 3:
        raise UnreadableError("the message's body is not [arguments, named arguments, options]")
    arguments, named, options = body
    if not isinstance(arguments, list) or not arguments:
        raise UnreadableError("the message has no jobs")
    if named:
        raise UnreadableError("the message has named arguments, which no job is")
    if isinstance(options, dict):
        _refuse_unsupported("body", options)
    elif options is not None:
        raise UnreadableError("the options in the message's body are not a JSON object")
    _refuse_types(arguments)
    return arguments


def _refuse_unsupported(place: str, fields: Mapping[str, Any]) -> None:
    for name in UNSUPPORTED[place]:
        value = fields.get(name)
        if any(value) if isinstance(value, list) else value:
            raise UnreadableError(f"the message's {place} ask for {name}, which workers here do not support")


def _refuse_types(value: Any) -> None:
    if isinstance(value, dict):
        if value.keys() == KOMBU_TYPE:
            raise UnreadableError("the message holds a value of another type than JSON's")
        for inner in value.values():
            _refuse_types(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_types(inner)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _written(task_id: str | None, arguments: Sequence[Any], queue: str) -> bytes:
    body = json.dumps([arguments, {}, {}]).encode()
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "task": TASK_NAME,
            "id": task_id or str(uuid.uuid4()),
            "lang": "py",
            "argsrepr": "-",
            "kwargsrepr": "-",
        },
        "properties": {
            "body_encoding": "base64",
            "delivery_mode": 2,
            # The default exchange, which on Redis is the list of this name, also when it is put back.
            "delivery_info": {"exchange": "", "routing_key": queue},
            # With another message's tag it would replace that one among the unacknowledged messages.
            "delivery_tag": str(uuid.uuid4()),
            "priority": 0,
        },
    }
    return json.dumps(envelope).encode()
