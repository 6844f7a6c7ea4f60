"""Questions as rows write them: a text, a list, or turns in any of the usual forms; knows no file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from contract.job import Detail, Question
from contract.quoting import quoted
from producer.sources.parameters import listed_texts
from producer.sources.pictures import MARK, names_in, no_image, several_marks
from producer.sources.refusal import SourceError

QUESTION_KEYS: Final = ("id", "question", "choices")
QUESTION_COLUMNS: Final = ("questions", "messages", "conversations", "choices")
"""What a row may ask with, besides a plain question."""
_USER: Final = ("user", "human")
_ASSISTANT: Final = ("assistant", "gpt", "model", "bot", "chatgpt")
_ROLES: Final = {
    "developer": "system",
    **dict.fromkeys(_USER, "user"),
    **dict.fromkeys(_ASSISTANT, "assistant"),
}
_TURN_KEYS: Final = ("role", "content", "from", "value")
_TURN_IDLE: Final = frozenset({"name", "id", "weight", "loss", "train", "refusal", "annotations", "audio"})
"""Keys of a turn that change no answer. `name` tells speakers apart, and here there is one."""
_TURN_NEUTRAL: Final = ("tool_calls", "function_call")
"""Keys of a turn that change nothing as long as they are empty."""
_TEXT_TYPES: Final = ("text", "input_text")
_IMAGE_TYPES: Final = ("image", "image_url", "input_image", "image_path")
_IMAGE_KEYS: Final = ("image", "image_url", "url", "path", "base64", "source", "image_path", "data")
_PART_IDLE: Final = frozenset(
    {"type", "text", "cache_control", "uuid", "detail", "media_type", "mime_type"}
    | {"min_pixels", "max_pixels", "resized_height", "resized_width", "total_pixels"}
)
_IMAGE_PART: Final = {"type": "image"}


@dataclass
class Said:
    """What a row asks, as far as that is known without its image."""

    asked: list[tuple[str, Any, Any]] = field(default_factory=list)
    """Id, a text or turns, and choices of each question."""
    images: list[str] = field(default_factory=list)
    """Those that its turns name, in order."""
    marks: int = 0
    """Places for an image, in a whole conversation or in the one of several questions that has most."""
    detail: Detail | None = None
    """How closely to look at the image, as its part says."""
    ignored: set[str] = field(default_factory=set)
    """Keys that change nothing."""

    def questions(self, *, with_image: bool) -> tuple[Question, ...]:
        """Raises SourceError for what is no question, and Refusal where images and their places differ."""
        if self.marks and not with_image:
            raise no_image(f"its text places one with {MARK}, and none is named")
        if self.marks > 1:
            raise several_marks(self.marks)
        return tuple(
            question(one, _placed(messages) if with_image else messages, choices)
            for one, messages, choices in self.asked
        )


def said(record: Mapping[str, Any], question_column: str | None) -> Said:
    """What the row asks of its own. Null is as good as not there. Raises SourceError and Refusal."""
    names = (question_column, "questions", "messages", "conversations")
    forms = [name for name in names if name is not None and record.get(name) is not None]
    if len(forms) > 1:
        raise SourceError(f"only one of {', '.join(map(quoted, forms))} can be given")
    form = forms[0] if forms else None
    choices = choices_of(record.get("choices"))
    if choices is not None and form not in (question_column or "", "messages"):
        raise SourceError('"choices" stands beside "question" or "messages", or in an object of "questions"')
    if form is None:
        return Said()
    content = record[form]
    if form == question_column:
        return _single(content, choices)
    if form == "messages":
        return spoken(_until_asked(content), choices)
    return _listed(content) if form == "questions" else _llava(content)


def spoken(messages: Any, choices: Any = None) -> Said:
    """A conversation in the form of OpenAI, Anthropic, Qwen or Hugging Face, or with marks in its texts."""
    if not isinstance(messages, list | tuple):
        raise SourceError('"messages" must be a list of turns')
    found = Said()
    turns = [_turn(turn, found) for turn in messages]
    found.marks = sum(_count(turn) for turn in turns)
    found.asked = [("q1", turns, choices)]
    return found


def choices_of(value: Any) -> Any:
    """Choices in any of their spellings as a list of texts; None where there are none."""
    if isinstance(value, str):
        value = listed_texts(value)
    if value is None or value == [] or value == ():
        return None
    if isinstance(value, list | tuple):
        return [
            str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in value
        ]
    return value


def marked(text: str, *, with_image: bool) -> Any:
    """A text as `question` takes it, with the image where its mark is. Raises Refusal."""
    single = _single(text, None)
    if single.marks and not with_image:
        raise no_image(f"its text places one with {MARK}, and none is named")
    if single.marks > 1:
        raise several_marks(single.marks)
    return single.asked[0][1]


def _single(content: Any, choices: Any) -> Said:
    if not isinstance(content, str):
        return Said(asked=[("q1", content, choices)])
    marks = content.count(MARK)
    return Said(asked=[("q1", _short_or_turns(content) if marks == 1 else content, choices)], marks=marks)


def _short_or_turns(text: str) -> Any:
    """The short form, which has its image first, or one turn with the image where the mark is."""
    if text.lstrip().startswith(MARK):
        return text.replace(MARK, "").lstrip("\r\n ")
    return [{"role": "user", "content": _parts(text)}]


def _listed(content: Any) -> Said:
    if not isinstance(content, list | tuple) or not content:
        raise SourceError('"questions" must be a list of at least one question')
    found = Said()
    for number, one in enumerate(content, start=1):
        question_id, text, choices = f"q{number}", one, None
        if isinstance(one, dict):
            one = {key: value for key, value in one.items() if value is not None}
            if one.keys() | {"choices"} != set(QUESTION_KEYS) or not isinstance(one["id"], str):
                raise SourceError('a question is a text or an object of "id" and "question", and "choices"')
            question_id, text, choices = one["id"], one["question"], choices_of(one.get("choices"))
        single = _single(text, choices)
        found.asked.append((question_id, single.asked[0][1], choices))
        found.marks = max(found.marks, single.marks)
    ids = [question_id for question_id, _, _ in found.asked]
    if len(set(ids)) != len(ids):
        raise SourceError("question ids must differ within a line")
    return found


def _llava(content: Any) -> Said:
    """Each human turn as a question of its own; what the other side said is not used."""
    if not isinstance(content, list | tuple) or not all(isinstance(turn, dict) for turn in content):
        raise SourceError('"conversations" must be a list of objects of "from" and "value"')
    found = Said()
    turns = [_turn(turn, found) for turn in content]
    human = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    texts = [_text_alone(turn["content"]) for turn in human]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise SourceError('"conversations" has no turn of "human" with a text')
    found.marks = sum(_count(turn) for turn in human)
    found.asked = [(f"q{number}", text, None) for number, text in enumerate(texts, start=1)]
    return found


def _text_alone(content: Any) -> Any:
    """A turn's text without its image, which comes first as LLaVA has it."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        return None
    parts = [part for part in content if part != _IMAGE_PART]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return None
    return "".join(part["text"] for part in parts).strip()


def _until_asked(messages: Any) -> Any:
    """Without the answers at the end, which data for training have."""
    if not isinstance(messages, list | tuple):
        return messages
    end = len(messages)
    while end and isinstance(messages[end - 1], dict) and _role(messages[end - 1]) == "assistant":
        end -= 1
    return messages[:end]


def _role(turn: Mapping[str, Any]) -> Any:
    role = turn.get("role", turn.get("from"))
    return _ROLES.get(role, role) if isinstance(role, str) else role


def _turn(turn: Any, found: Said) -> Any:
    """A turn in our form; what is none is left for `question` to refuse."""
    if not isinstance(turn, dict):
        return turn
    content = turn.get("content", turn.get("value"))
    if isinstance(content, str) and MARK in content:
        content = _parts(content)
    elif isinstance(content, list | tuple):
        content = [part for one in content for part in _part(one, found)]
    other = {}
    for key, value in turn.items():
        if key in _TURN_KEYS or value is None:
            continue
        if key in _TURN_IDLE or (key in _TURN_NEUTRAL and not value):
            found.ignored.add(f'"{quoted(key)}" of a turn')
        else:
            other[key] = value
    return {"role": _role(turn), "content": content, **other}


def _part(part: Any, found: Said) -> list[Any]:
    """A part of a turn's content as our parts, and the image that it names among those found."""
    if isinstance(part, str):
        return _parts(part)
    if not isinstance(part, dict):
        return [part]
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.get("type")
    if kind in _TEXT_TYPES or (kind is None and isinstance(part.get("text"), str)):
        _note_idle(part, found)
        return _parts(part["text"]) if isinstance(part.get("text"), str) else [{**part, "type": "text"}]
    named = {key: part[key] for key in _IMAGE_KEYS if key in part}
    if kind in _IMAGE_TYPES or (kind is None and named):
        names = [name for value in list(named.values())[:1] for name in names_in(value)]
        if kind in ("image_url", "input_image") and not names:
            raise SourceError('an "image_url" part has no "url"')
        _note_idle(part, found)
        found.images += names
        inner = part.get("image_url")
        found.detail = _detail(inner.get("detail") if isinstance(inner, dict) else part.get("detail"))
        return [_IMAGE_PART] * max(1, len(names))
    return [part]


def _detail(value: Any) -> Detail | None:
    """`auto` leaves it to the run."""
    if value in (None, "auto"):
        return None
    if value == "low" or value == "high":
        return "low" if value == "low" else "high"
    raise SourceError('"detail" of an image is low, high or auto')


def _note_idle(part: Mapping[str, Any], found: Said) -> None:
    for key in part:
        if key in _PART_IDLE and key not in ("type", "text", "detail"):
            found.ignored.add(f'"{key}" of a part')


def _parts(text: str) -> list[Any]:
    """A text with its marks as parts; of a line end beside a mark nothing is left."""
    pieces = text.split(MARK)
    parts: list[Any] = []
    for number, piece in enumerate(pieces):
        if number:
            parts.append(_IMAGE_PART)
            piece = piece.removeprefix("\r").removeprefix("\n")
        if number < len(pieces) - 1:
            piece = piece.removesuffix("\n").removesuffix("\r")
        if piece.strip():
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": text}]


def _count(turn: Any) -> int:
    content = turn.get("content") if isinstance(turn, dict) else None
    return sum(part == _IMAGE_PART for part in content) if isinstance(content, list) else 0


def _placed(messages: Any) -> Any:
    """Turns that place no image get it before the first thing that the user says."""
    if not isinstance(messages, list) or any(_count(turn) for turn in messages):
        return messages
    turns = list(messages)
    for number, turn in enumerate(turns):
        if isinstance(turn, dict) and turn.get("role") == "user":
            content = turn.get("content")
            rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if isinstance(rest, list):
                turns[number] = {**turn, "content": [_IMAGE_PART, *rest]}
            break
    return turns


def question(question_id: str, messages: Any, choices: Any = None) -> Question:
    """Raises SourceError for what is no question, with the place in it."""
    try:
        return Question.model_validate({"id": question_id, "messages": messages, "choices": choices})
    except ValidationError as invalid:
        errors = invalid.errors(include_input=False, include_url=False)
        # Each form of a question complains; that it is not the other form is the least of it.
        telling = [error for error in errors if error["type"] not in ("tuple_type", "string_type")]
        error = (telling or errors)[0]
        where = ".".join(str(part) for part in error["loc"] if "[" not in str(part) and part != "str")
        raise SourceError(
            f"{quoted(where) or 'question'}: {quoted(error['msg'].removeprefix('Value error, '))}"
        ) from None
