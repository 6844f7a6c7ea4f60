"""Reads rows of an OpenAI batch file; knows nothing of how answers are written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from contract.failure import Failure, FailureCode, Refusal
from contract.job import GenerationParameters
from contract.quoting import quoted
from producer.rows import Row
from producer.sources.conversation import conversation_questions
from producer.sources.images import holds_bytes, named_images
from producer.sources.jsonl import JsonLines
from producer.sources.parameters import parameters_of
from producer.sources.records import Record, RecordSource
from producer.sources.refusal import SourceError
from producer.sources.source import SourceOptions

LINE_KEYS: Final = ("custom_id", "method", "url", "body")
CHAT_URL: Final = "/v1/chat/completions"

_SAME_NAME: Final = ("top_p", "top_k", "min_p", "length_penalty", "repetition_penalty", "seed")
_NO_EFFECT: Final = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "priority"}
    | {"request_id", "skip_special_tokens", "spaces_between_special_tokens", "return_token_ids", "cache_salt"}
)
"""Fields without effect here. The run chooses the model; the row's column `model` has the named one."""
_UNTOLD: Final = frozenset({"model", "messages"})
"""Fields that are not reported as ignored."""
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "stream": (False,),
    "stream_options": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "echo": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "include_stop_str_in_output": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "documents": ([],),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "extra_body": ({},),
}
"""Unsupported fields, with the values that are allowed because they have no effect; null always is."""
_SAMPLING_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {"top_p": (1,), "top_k": (0, -1), "min_p": (0,)}


class OpenAIBatch(RecordSource):
    """One chat completion per line.

    An invalid line raises SourceError; a request that is not supported gives a row with a refusal. A
    `temperature` above 0 turns sampling on. Without one the run's parameters decide, not the API's default
    of 1; without a token limit the run's applies.
    """

    columns = ("model",)
    notes = ()

    def __init__(self, source: str, root: str, options: SourceOptions) -> None:
        super().__init__(source, root, JsonLines(source, options.encoding), options)

    def _id(self, record: Record) -> str:
        return f"line {record.number}"

    def _image_text(self, fields: Mapping[str, Any]) -> str | None:
        try:
            return conversation_questions(fields["body"]["messages"]).names(())[0]
        except (Refusal, LookupError, TypeError):
            return None

    def _row(self, record: Record, where: str) -> Row:
        fields = record.fields
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
            return replace(self._asked(custom_id, body, record.place, columns), where=where)
        except SourceError as error:
            message = f"{str(error).removesuffix('.')}.".encode("utf-8", "backslashreplace").decode()
            refusal = Failure(code=FailureCode.INVALID_JOB, message=message)
        except Refusal as refused:
            refusal = refused.failure
        return Row(id=custom_id, name=None, image=None, columns=columns, where=where, refusal=refusal)

    def _asked(self, custom_id: str, body: dict[str, Any], place: int, columns: dict[str, Any]) -> Row:
        found = conversation_questions(body.get("messages"))
        texts = found.names(())
        image, more_images = named_images(texts, self._root, place)
        parameters = _parameters(body, found.ignored)
        return Row(
            id=custom_id,
            name=None if image is None or holds_bytes(texts[0]) else texts[0],
            image=image,
            more_images=more_images,
            questions=found.questions(len(texts)),
            parameters=parameters,
            detail=found.detail,
            columns=columns,
            text_only=self._options.text_only,
            ignored=tuple(sorted(found.ignored)),
        )


def _parameters(body: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """The body's fields as fields of GenerationParameters; adds fields without effect to `ignored`."""
    given = {name: value for name, value in body.items() if value is not None and name not in _UNTOLD}
    for name, neutral in _NEUTRAL.items():
        if name in given:
            if given.pop(name) not in neutral:
                raise SourceError(f'"{name}" is not offered')
            ignored.add(f'"{name}"')
    for name in _NO_EFFECT & given.keys():
        del given[name]
        ignored.add(f'"{name}"')
    named: dict[str, Any] = {}
    limits = {given.pop(name) for name in ("max_tokens", "max_completion_tokens") if _whole(given, name)}
    if len(limits) > 1:
        raise SourceError('"max_tokens" and "max_completion_tokens" differ')
    if limits:
        named["max_new_tokens"] = limits.pop()
    if "min_tokens" in given:
        named["min_new_tokens"] = given.pop("min_tokens")
    if "n" in given:
        named["num_return_sequences"] = given.pop("n")
    if "stop" in given:
        stop = given.pop("stop")
        named["stop"] = [stop] if isinstance(stop, str) else stop
    temperature = given.pop("temperature", None)
    named |= {name: given.pop(name) for name in _SAME_NAME if name in given}
    if given:
        raise SourceError(f'"{quoted(next(iter(given)))}" is not offered')
    return _checked(_sampled(named, temperature, ignored))


def _whole(given: dict[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise SourceError(f'"{name}" must be a whole number')
    return value is not None


def _sampled(named: dict[str, Any], temperature: Any, ignored: set[str]) -> dict[str, Any]:
    """Sampling on or off by the temperature, without fields that then have no effect. Raises SourceError."""
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
    ignored |= {f'"{name}" without sampling' for name in named.keys() - greedy.keys()}
    return greedy if temperature is None else greedy | {"do_sample": False}


def _checked(named: dict[str, Any]) -> dict[str, Any]:
    read = parameters_of(named)
    try:
        GenerationParameters.model_validate(read)
    except ValidationError as invalid:
        raise SourceError(invalid.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return read
