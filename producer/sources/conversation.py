"""Reads a row's questions: a text, a list, or turns in any of the usual forms; knows no file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from contract.failure import FailureCode, Refusal
from contract.job import Detail, Question
from contract.quoting import quoted
from producer.sources.parameters import listed_texts
from producer.sources.pictures import check_marks, check_numbers, names_in, other_media
from producer.sources.refusal import SourceError

QUESTION_KEYS: Final = ("id", "question", "choices")
QUESTION_COLUMNS: Final = ("questions", "messages", "conversations", "choices")
"""Columns with a row's questions, besides the plain question."""
_USER: Final = ("user", "human")
_ASSISTANT: Final = ("assistant", "gpt", "model", "bot", "chatgpt")
_ROLES: Final = {
    "developer": "system",
    **dict.fromkeys(_USER, "user"),
    **dict.fromkeys(_ASSISTANT, "assistant"),
}
_TURN_KEYS: Final = ("role", "content", "from", "value")
_TURN_IDLE: Final = frozenset({"name", "id", "weight", "loss", "train", "refusal", "annotations", "audio"})
"""Keys of a turn that change no answer. `name` distinguishes speakers, and here there is one."""
_TURN_NEUTRAL: Final = ("tool_calls", "function_call")
"""Keys of a turn that have no effect if they are empty."""
_TEXT_TYPES: Final = ("text", "input_text")
_IMAGE_TYPES: Final = ("image", "image_url", "input_image", "image_path")
_IMAGE_KEYS: Final = ("image", "image_url", "url", "path", "base64", "source", "image_path", "data")
_PART_IDLE: Final = frozenset(
    {"type", "text", "cache_control", "uuid", "detail", "media_type", "mime_type"}
    | {"min_pixels", "max_pixels", "resized_height", "resized_width", "total_pixels"}
)
_IMAGE_PART: Final = {"type": "image"}
_PLACE: Final = re.compile(
    r"(?:Picture ?\d+: ?)?<img>(?P<name>[^<>]+)</img>|<image(?:[ _]?(?P<number>\d{1,6}))?>"
    r"|<(?P<other>video|audio)>"
)
"""The place of an image in a text: a mark with or without a number, or Qwen-VL's, which names the image."""


@dataclass
class RowQuestions:
    """A row's questions, as far as they are known without its images."""

    asked: list[tuple[str, Any, Any]] = field(default_factory=list)
    """(id, text or turns, choices) of each question."""
    places: list[str | None] = field(default_factory=list)
    """The images' places in order: the name that is written there, or None."""
    marks: set[int] = field(default_factory=set)
    """Numbers of images that the questions, or a whole conversation, place."""
    is_scattered: bool = False
    """Whether images are placed in several turns, or outside of the first user turn."""
    details: set[Detail | None] = field(default_factory=set)
    """The images' details, as their parts give them."""
    ignored: set[str] = field(default_factory=set)
    """Keys without effect."""

    def ask(self, question_id: str, content: Any, choices: Any) -> None:
        """Add a question with a text. Raises Refusal."""
        if isinstance(content, str) and _PLACE.search(content):
            parts = _parts(content, self)
            self.marks.add(parts.count(_IMAGE_PART))
            content = _short_or_turns(parts)
        self.asked.append((question_id, content, choices))

    @property
    def detail(self) -> Detail | None:
        """Raises Refusal if the images' parts differ."""
        if len(self.details) > 1:
            raise Refusal(
                FailureCode.INVALID_JOB,
                'The "detail" of the row\'s images differs, and all images have the same one: give each the '
                "same.",
            )
        return next(iter(self.details), None)

    def names(self, inside: Sequence[str]) -> list[str]:
        """The row's images in the order of their places; `inside` are images that other columns name.

        An image may be in both. Those that only other columns name fill the places without a name.
        """
        if not any(self.places):
            return list(inside)
        others = iter([name for name in inside if name not in self.places])
        placed = [next(others, None) if name is None else name for name in self.places]
        return [*(name for name in placed if name is not None), *others]

    def questions(self, images: int) -> tuple[Question, ...]:
        """Raises SourceError for an invalid question, and Refusal if it does not place `images` images."""
        for marks in self.marks:
            check_marks(marks, images)
        if self.is_scattered:
            raise Refusal(
                FailureCode.INVALID_JOB,
                "The row places images in several of its turns, or in a later one: all of them stand in the "
                "first user turn.",
            )
        return tuple(
            question(one, _placed(messages, images), choices) for one, messages, choices in self.asked
        )


def row_questions(record: Mapping[str, Any], question_column: str | None) -> RowQuestions:
    """The row's own questions; a null is ignored. Raises SourceError and Refusal."""
    names = (question_column, "questions", "messages", "conversations")
    forms = [name for name in names if name is not None and record.get(name) is not None]
    if len(forms) > 1:
        raise SourceError(f"only one of {', '.join(map(quoted, forms))} can be given")
    form = forms[0] if forms else None
    choices = choices_of(record.get("choices"))
    if choices is not None and form not in (question_column or "", "messages"):
        raise SourceError('"choices" stands beside "question" or "messages", or in an object of "questions"')
    found = RowQuestions()
    if form is None:
        return found
    content = record[form]
    if form == question_column:
        found.ask("q1", content, choices)
    elif form == "questions":
        _listed(content, found)
    elif form == "messages":
        found = conversation_questions(_begun(_until_asked(content), record), choices)
    else:
        _llava(_begun(content, record), found)
    return found


def conversation_questions(messages: Any, choices: Any = None) -> RowQuestions:
    """A conversation as OpenAI, Anthropic, Qwen or Hugging Face write it, or with marks in its texts."""
    if not isinstance(messages, list | tuple):
        raise SourceError('"messages" must be a list of turns')
    found = RowQuestions()
    turns = [_turn(turn, found) for turn in messages]
    counts = [_count(turn) for turn in turns]
    found.marks.add(sum(counts))
    users = [count for turn, count in zip(turns, counts, strict=True) if _is_user(turn)]
    found.is_scattered = sum(counts) != sum(users[:1])
    found.asked = [("q1", turns, choices)]
    return found


def choices_of(value: Any) -> Any:
    """Choices in any spelling, as a list of texts; None if there are none."""
    if isinstance(value, str):
        value = listed_texts(value)
    if value is None or value == [] or value == ():
        return None
    if isinstance(value, list | tuple):
        return [
            str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in value
        ]
    return value


def marked(text: str, images: int) -> Any:
    """A text for `question`, with its marks as image parts. Raises Refusal if it does not place `images`."""
    marks = sum(match["name"] is None for match in _PLACE.finditer(text))
    check_marks(marks, images)
    return _short_or_turns(_parts(text)) if marks else text


def without_marks(text: str) -> str:
    return _PLACE.sub("", text)


def _short_or_turns(parts: list[Any]) -> Any:
    """A plain text if all images come before it, else one turn with the images in their places."""
    *before, last = parts
    if last != _IMAGE_PART and all(part == _IMAGE_PART for part in before):
        return last["text"].lstrip()
    return [{"role": "user", "content": parts}]


def _listed(content: Any, found: RowQuestions) -> None:
    if not isinstance(content, list | tuple) or not content:
        raise SourceError('"questions" must be a list of at least one question')
    for number, one in enumerate(content, start=1):
        question_id, text, choices = f"q{number}", one, None
        if isinstance(one, dict):
            one = {key: value for key, value in one.items() if value is not None}
            if one.keys() | {"choices"} != set(QUESTION_KEYS) or not isinstance(one["id"], str):
                raise SourceError('a question is a text or an object of "id" and "question", and "choices"')
            question_id, text, choices = one["id"], one["question"], choices_of(one.get("choices"))
        found.ask(question_id, text, choices)
    ids = [question_id for question_id, _, _ in found.asked]
    if len(set(ids)) != len(ids):
        raise SourceError("question ids must differ within a line")


def _llava(content: Any, found: RowQuestions) -> None:
    """Each human turn as its own question, after a system turn; answers are ignored.

    Each question is about all images. At most one turn places them; several images keep their places.
    """
    if not isinstance(content, list | tuple) or not all(isinstance(turn, dict) for turn in content):
        raise SourceError('"conversations" must be a list of objects of "from" and "value"')
    turns = [_turn(turn, found) for turn in content]
    human = [turn for turn in turns if turn["role"] == "user"]
    texts = [_text_alone(turn["content"]) for turn in human]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise SourceError('"conversations" has no turn of "human" with a text')
    counts = [_count(turn) for turn in human]
    found.marks.add(sum(counts))
    found.is_scattered = sum(count > 0 for count in counts) > 1
    system = [turn for turn in turns if turn["role"] == "system" and turn["content"]]
    for number, (turn, text, count) in enumerate(zip(human, texts, counts, strict=True), start=1):
        asked = text if count < 2 else _short_or_turns(turn["content"])
        if system:
            own = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
            asked = [*system, *own]
        found.asked.append((f"q{number}", asked, None))


def _text_alone(content: Any) -> Any:
    """A turn's text without its images; a single image comes first, as in LLaVA."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        return None
    parts = [part for part in content if part != _IMAGE_PART]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return None
    return "".join(part["text"] for part in parts).strip()


def _begun(messages: Any, record: Mapping[str, Any]) -> Any:
    """The turns, after the column `system` as a first turn, as ShareGPT's successors have it."""
    system = record.get("system")
    if not isinstance(messages, list | tuple) or not isinstance(system, str) or not system.strip():
        return messages
    if messages and isinstance(messages[0], dict) and _role(messages[0]) == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _until_asked(messages: Any) -> Any:
    """The turns without answers at the end, which training data has."""
    if not isinstance(messages, list | tuple):
        return messages
    end = len(messages)
    while end and isinstance(messages[end - 1], dict) and _role(messages[end - 1]) == "assistant":
        end -= 1
    return messages[:end]


def _role(turn: Mapping[str, Any]) -> Any:
    role = turn.get("role", turn.get("from"))
    return _ROLES.get(role, role) if isinstance(role, str) else role


def _turn(turn: Any, found: RowQuestions) -> Any:
    """A turn in the contract's form; `question` refuses what is no turn."""
    if not isinstance(turn, dict):
        return turn
    role, content = _role(turn), turn.get("content", turn.get("value"))
    if isinstance(content, str):
        # A mark in an answer places no image.
        if role == "user" and _PLACE.search(content):
            content = _parts(content, found)
    elif isinstance(content, list | tuple):
        content = [part for one in content for part in _part(one, found, role)]
    other = {}
    for key, value in turn.items():
        if key in _TURN_KEYS or value is None:
            continue
        if key in _TURN_IDLE or (key in _TURN_NEUTRAL and not value):
            found.ignored.add(f'"{quoted(key)}" of a turn')
        else:
            other[key] = value
    return {"role": role, "content": content, **other}


def _part(part: Any, found: RowQuestions, role: Any) -> list[Any]:
    """A part of a turn's content as the contract's parts; adds the images that it names to the places."""
    if isinstance(part, str):
        part = {"type": "text", "text": part}
    if not isinstance(part, dict):
        return [part]
    part = {key: value for key, value in part.items() if value is not None}
    kind, text = part.get("type"), part.get("text")
    if kind in _TEXT_TYPES or (kind is None and isinstance(text, str)):
        _note_idle(part, found)
        if role == "user" and isinstance(text, str) and _PLACE.search(text):
            return _parts(text, found)
        return [{"type": "text", "text": text}]
    named = [part[key] for key in _IMAGE_KEYS if key in part]
    if kind in _IMAGE_TYPES or (kind is None and named):
        names = names_in(named[0]) if named else []
        if kind in ("image_url", "input_image") and not names:
            raise SourceError('an "image_url" part has no "url"')
        _note_idle(part, found)
        found.places += names or [None]
        inner = part.get("image_url")
        found.details.add(_detail(inner.get("detail") if isinstance(inner, dict) else part.get("detail")))
        return [_IMAGE_PART] * max(1, len(names))
    return [part]


def _detail(value: Any) -> Detail | None:
    """The detail of an image; None for `auto`, which leaves it to the run. Raises SourceError."""
    if value in (None, "auto"):
        return None
    if value == "low" or value == "high":
        return "low" if value == "low" else "high"
    raise SourceError('"detail" of an image is low, high or auto')


def _note_idle(part: Mapping[str, Any], found: RowQuestions) -> None:
    for key in part:
        if key in _PART_IDLE and key not in ("type", "text", "detail"):
            found.ignored.add(f'"{key}" of a part')


def _parts(text: str, found: RowQuestions | None = None) -> list[Any]:
    """A text with its marks as image parts, without line ends beside the marks. Raises Refusal."""
    check_numbers([int(match["number"]) for match in _PLACE.finditer(text) if match["number"]])
    parts: list[Any] = []
    at = 0
    for match in [*_PLACE.finditer(text), None]:
        piece = text[at : len(text) if match is None else match.start()]
        if at:
            piece = piece.removeprefix("\r").removeprefix("\n")
        if match is not None:
            piece = piece.removesuffix("\n").removesuffix("\r")
        if piece.strip():
            parts.append({"type": "text", "text": piece})
        if match is not None:
            at = match.end()
            if match["other"] is not None:
                raise other_media(match["other"])
            if found is not None:
                found.places.append(None if match["name"] is None else match["name"].strip())
            parts.append(_IMAGE_PART)
    return parts


def _count(turn: Any) -> int:
    content = turn.get("content") if isinstance(turn, dict) else None
    return sum(part == _IMAGE_PART for part in content) if isinstance(content, list) else 0


def _is_user(turn: Any) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "user"


def _placed(messages: Any, images: int) -> Any:
    """The turns; if they place no image, `images` images come before the first user text."""
    if not images or not isinstance(messages, list) or any(_count(turn) for turn in messages):
        return messages
    turns = list(messages)
    for number, turn in enumerate(turns):
        if _is_user(turn):
            content = turn.get("content")
            rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if isinstance(rest, list):
                turns[number] = {**turn, "content": [*[_IMAGE_PART] * images, *rest]}
            break
    return turns


def question(question_id: str, messages: Any, choices: Any = None) -> Question:
    """A contract Question. Raises SourceError with the place of what is invalid."""
    try:
        return Question.model_validate({"id": question_id, "messages": messages, "choices": choices})
    except ValidationError as invalid:
        errors = invalid.errors(include_input=False, include_url=False)
        # Both forms of a question report errors; that it is not the other form helps least.
        telling = [error for error in errors if error["type"] not in ("tuple_type", "string_type")]
        error = (telling or errors)[0]
        where = ".".join(str(part) for part in error["loc"] if "[" not in str(part) and part != "str")
        raise SourceError(
            f"{quoted(where) or 'question'}: {quoted(error['msg'].removeprefix('Value error, '))}"
        ) from None
