"""Rows of an OpenAI batch file; knows nothing of how their answers are written."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from pydantic import ValidationError

from contract.failure import Failure, FailureCode
from contract.job import Detail, GenerationParameters
from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.conversation import openai_turns, question
from producer.sources.files import reading
from producer.sources.images import data_url_content, is_data_url, named_image
from producer.sources.jsonl import JsonLines, parsed_object
from producer.sources.lines import line_at
from producer.sources.parameters import parameters_of
from producer.sources.records import BadRecord
from producer.sources.refusal import SourceError, shown
from producer.sources.skipped import Skipped
from producer.sources.text import open_text

LINE_KEYS: Final = ("custom_id", "method", "url", "body")
CHAT_URL: Final = "/v1/chat/completions"

_SAME_NAME: Final = ("top_p", "top_k", "min_p", "length_penalty", "repetition_penalty", "seed")
_NO_EFFECT: Final = frozenset(
    {"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Fields that change no answer here. The run chooses the model; the row carries the one it named."""
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "stream": (False,),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
}
"""Fields that are not offered, with the values that ask for nothing; null always does."""
_SAMPLING_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {"top_p": (1,), "top_k": (0, -1), "min_p": (0,)}


class OpenAIBatch:
    """One chat completion a line.

    A line that is no batch line raises SourceError; one whose request cannot be expressed gives a row with a
    refusal. A `temperature` above 0 turns sampling on; without one the run's parameters decide, greedy by
    default, and not the API's temperature of 1. Without a token limit the run's applies.
    """

    columns: tuple[str, ...] | None = ("model",)
    skipped = Skipped()
    images_folder: Path | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, source: str, root: str, encoding: str | None = None) -> None:
        self._encoding = encoding
        self._source = source
        self._root = root
        self._again: IO[bytes] | None = None

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        bad = bad or BadRows()
        name = shown(self._source)
        with reading(self._source):
            for record in JsonLines(self._source, self._encoding).records():
                if isinstance(record, SourceError):
                    raise SourceError(f"{shown(self._source)}, {record}") from None
                empty = False
                number = f"line {record.number}"
                where = f"{name}, {number}"
                if isinstance(record, BadRecord):
                    yield from bad.instead(number, where, record.reason)
                    continue
                try:
                    row = self._row(record.fields, record.place)
                except SourceError as error:
                    yield from bad.instead(number, where, str(error))
                else:
                    yield replace(row, where=where)
        if empty:
            raise SourceError(f"{shown(self._source)} has no lines.")

    def read(self, place: int) -> bytes:
        with reading(self._source):
            if self._again is None:
                self._again = open_text(self._source, self._encoding)
            try:
                _, urls = openai_turns(parsed_object(line_at(self._again, place))["body"]["messages"])
                return data_url_content(urls[0])
            except (SourceError, LookupError, TypeError):
                pass
        raise SourceError(f"{shown(self._source)} was changed while it was in use.")

    def _row(self, fields: Mapping[str, Any], place: int) -> Row:
        missing = [key for key in LINE_KEYS if key not in fields]
        if missing:
            raise SourceError(f'a batch line has {", ".join(LINE_KEYS)}; "{missing[0]}" is missing')
        custom_id, body = fields["custom_id"], fields["body"]
        if not isinstance(custom_id, str) or not custom_id:
            raise SourceError('"custom_id" must be a string')
        if not isinstance(body, dict):
            raise SourceError('"body" must be an object')
        columns = {"model": body.get("model")}
        try:
            if (fields["method"], fields["url"]) != ("POST", CHAT_URL):
                raise SourceError(f"only POST {CHAT_URL} is answered")
            return self._asked(custom_id, body, place, columns)
        except SourceError as error:
            message = f"{str(error).removesuffix('.')}.".encode("utf-8", "backslashreplace").decode()
            refusal = Failure(code=FailureCode.INVALID_JOB, message=message)
            return Row(id=custom_id, name=None, image=None, columns=columns, refusal=refusal)

    def _asked(self, custom_id: str, body: dict[str, Any], place: int, columns: dict[str, Any]) -> Row:
        turns, urls = openai_turns(body.get("messages"))
        if len(urls) > 1:
            raise SourceError(f"a row holds one image, and this one has {len(urls)}")
        name = urls[0] if urls and not is_data_url(urls[0]) else None
        return Row(
            id=custom_id,
            name=name,
            image=named_image(urls[0], self._root, place) if urls else None,
            questions=(question("q1", [_turn(turn) for turn in turns]),),
            parameters=_parameters(body),
            detail=_detail(body["messages"]),
            columns=columns,
        )


def _turn(turn: Any) -> Any:
    """`developer` is what newer models call `system`."""
    if isinstance(turn, dict) and turn.get("role") == "developer":
        return {**turn, "role": "system"}
    return turn


def _detail(messages: list[Any]) -> Detail | None:
    """The image's `detail`; `auto` leaves it to the run."""
    parts = [
        part
        for turn in messages
        if isinstance(turn, dict) and isinstance(turn.get("content"), list)
        for part in turn["content"]
        if isinstance(part, dict) and isinstance(part.get("image_url"), dict)
    ]
    detail = parts[0]["image_url"].get("detail") if parts else None
    if detail in (None, "auto"):
        return None
    if detail == "low":
        return "low"
    if detail == "high":
        return "high"
    raise SourceError('"detail" of an image is low, high or auto')


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    """The body's fields as fields of GenerationParameters."""
    given = {name: value for name, value in body.items() if value is not None and name not in _NO_EFFECT}
    del given["messages"]
    for name, neutral in _NEUTRAL.items():
        if name in given and given.pop(name) not in neutral:
            raise SourceError(f'"{name}" is not offered')
    named: dict[str, Any] = {}
    limits = {given.pop(name) for name in ("max_tokens", "max_completion_tokens") if _whole(given, name)}
    if len(limits) > 1:
        raise SourceError('"max_tokens" and "max_completion_tokens" differ')
    if limits:
        named["max_new_tokens"] = limits.pop()
    if "n" in given:
        named["num_return_sequences"] = given.pop("n")
    if "stop" in given:
        stop = given.pop("stop")
        named["stop"] = [stop] if isinstance(stop, str) else stop
    temperature = given.pop("temperature", None)
    named |= {name: given.pop(name) for name in _SAME_NAME if name in given}
    if given:
        raise SourceError(f'"{next(iter(given))}" is not offered')
    return _checked(_sampled(named, temperature))


def _whole(given: dict[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise SourceError(f'"{name}" must be a whole number')
    return value is not None


def _sampled(named: dict[str, Any], temperature: Any) -> dict[str, Any]:
    """Sampling on or off as the temperature says, without what then decides nothing."""
    if isinstance(temperature, bool) or not isinstance(temperature, int | float | None):
        raise SourceError('"temperature" must be a number')
    if temperature:
        # Without top_k the API keeps every token; transformers' default would not.
        top_k = named.get("top_k", 0)
        return named | {"do_sample": True, "temperature": temperature, "top_k": 0 if top_k == -1 else top_k}
    for name, neutral in _SAMPLING_NEUTRAL.items():
        if temperature is None and name in named and named[name] not in neutral:
            raise SourceError(f'"{name}" decides nothing without a "temperature" above 0')
    greedy = {name: value for name, value in named.items() if name not in (*_SAMPLING_NEUTRAL, "seed")}
    return greedy if temperature is None else greedy | {"do_sample": False}


def _checked(named: dict[str, Any]) -> dict[str, Any]:
    read = parameters_of(named)
    try:
        GenerationParameters.model_validate(read)
    except ValidationError as invalid:
        raise SourceError(invalid.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return read
