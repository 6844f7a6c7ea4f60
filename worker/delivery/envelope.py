"""Reads what lies in a queue, whatever bytes they are, and writes it anew; knows no broker and no model.

Celery and kombu trust a message's envelope. One that is not as they write it raises in their event loop and
ends the worker, names a task of Celery's own, or is dropped without a record. So none of it goes on to them:
a message of jobs is written anew from its jobs, and of anything else a message is made that ends as a dead
letter.
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
from worker.attempt import attempt
from worker.errors import WorkerError

SHOWN_BYTES: Final = 4096
"""Of an unreadable message, for the operator."""
SHOWN_CHARACTERS: Final = 100
"""Of a value in a reason."""
TASK_ID: Final = re.compile(r"[\w.:-]{1,250}", re.ASCII)
UNREADABLE: Final = "unreadable"
REASON: Final = "reason"
NOT_DONE: Final = {
    "headers": ("compression", "eta", "expires", "timelimit"),
    "body": ("callbacks", "errbacks", "chain", "chord"),
}
"""What Celery would do with a message beside running its task, and no worker here does."""
KOMBU_TYPE: Final = {"__type__", "__value__"}
"""The keys of an object that kombu reads as a value of another type than JSON's, and may fail to."""


class UnreadableError(WorkerError):
    """Why it is no message of jobs; a reason for the dead letter."""


class DeadLetter(NamedTuple):
    """What is kept of a message that tells no job."""

    message: object
    reason: str


def readable(raw: bytes, queue: str) -> bytes:
    """The message for kombu: of its jobs, or one argument that dead_letter() knows. Never raises."""
    # Bytes may raise anything, among it MemoryError and RecursionError.
    found = attempt(lambda: _written(*_read(raw), queue))
    if isinstance(found, bytes):
        return found
    reason = str(found)
    if not isinstance(found, UnreadableError):
        reason = f"the message cannot be read ({type(found).__name__})"
    shown = raw[:SHOWN_BYTES].decode(errors="backslashreplace")
    return _written(None, [{UNREADABLE: shown, REASON: reason}], queue)


def dead_letter(argument: object) -> DeadLetter:
    """Of a task's argument that is no job."""
    if isinstance(argument, Mapping) and argument.keys() == {UNREADABLE, REASON}:
        return DeadLetter(argument[UNREADABLE], str(argument[REASON]))
    return DeadLetter(argument, "the message has no valid run and index")


def _read(raw: bytes) -> tuple[str | None, Sequence[Any]]:
    """The id of the task and its arguments. Raises UnreadableError, or whatever the bytes make raise."""
    if len(raw) > MESSAGE_MAX_BYTES:
        raise UnreadableError(f"the message has {len(raw)} bytes, and {MESSAGE_MAX_BYTES} are the most")
    envelope = _json(raw, "the message")
    if not isinstance(envelope, dict):
        raise UnreadableError("the message is no JSON object")
    headers = envelope.get("headers")
    if not isinstance(headers, dict):
        raise UnreadableError("the message has no headers")
    if headers.get("task") != TASK_NAME:
        raise UnreadableError(f"the message is for the task {_shown(headers.get('task'))}, which nobody has")
    _refuse_what_is_not_done("headers", headers)
    task_id = headers.get("id")
    known = isinstance(task_id, str) and TASK_ID.fullmatch(task_id) is not None
    return task_id if known else None, _arguments(_json(_body(envelope), "the message's body"))


def _json(text: bytes, what: str) -> Any:
    try:
        # Not more than 200 brackets deep, so that what reads it after us has the depth it needs.
        return from_json(text)
    except ValueError:
        raise UnreadableError(f"{what} is no JSON") from None


def _body(envelope: Mapping[str, Any]) -> bytes:
    for field, known in (("content-type", ("application/json",)), ("content-encoding", ("utf-8", "utf8"))):
        if not isinstance(said := envelope.get(field), str) or said.lower() not in known:
            raise UnreadableError(f"the message's {field} is {_shown(said)} and not {known[0]}")
    properties, body = envelope.get("properties"), envelope.get("body")
    if not isinstance(properties, dict):
        raise UnreadableError("the message has no properties")
    if not isinstance(body, str):
        raise UnreadableError("the message's body is no text")
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
        raise UnreadableError("the message has named arguments, and jobs have no names")
    if isinstance(options, dict):
        _refuse_what_is_not_done("body", options)
    elif options is not None:
        raise UnreadableError("the options in the message's body are no JSON object")
    _refuse_types(arguments)
    return arguments


def _refuse_what_is_not_done(place: str, said: Mapping[str, Any]) -> None:
    for name in NOT_DONE[place]:
        asked = said.get(name)
        if any(asked) if isinstance(asked, list) else asked:
            raise UnreadableError(f"the message's {place} ask for {name}, and workers here do not do that")


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
            # To the default exchange, which on Redis is the list of this name; put back, it goes there again.
            "delivery_info": {"exchange": "", "routing_key": queue},
            # Another message's tag would take that one's place among those that are not acknowledged.
            "delivery_tag": str(uuid.uuid4()),
            "priority": 0,
        },
    }
    return json.dumps(envelope).encode()
