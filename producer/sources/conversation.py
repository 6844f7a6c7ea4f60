"""Questions as rows write them: a text, a list, or turns in OpenAI's or LLaVA's form; knows no file."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from contract.job import Question
from producer.sources.refusal import SourceError

QUESTION_KEYS: Final = ("id", "question", "choices")
QUESTION_COLUMNS: Final = ("questions", "messages", "conversations", "choices")
"""What a row may ask with, besides a plain question."""


def questions_of(
    record: Mapping[str, Any], question_column: str | None
) -> tuple[tuple[Question, ...], list[str]]:
    """The row's own questions, and the images that a conversation in OpenAI's form names."""
    names = (question_column, "questions", "messages", "conversations")
    forms = [name for name in names if name is not None and name in record]
    if len(forms) > 1:
        raise SourceError(f"only one of {', '.join(forms)} can be given")
    form = forms[0] if forms else None
    choices = record.get("choices")
    if choices is not None and form not in (question_column or "", "messages"):
        raise SourceError('"choices" stands beside "question" or "messages", or in an object of "questions"')
    if form is None:
        return (), []
    content = record[form]
    if form == question_column:
        return (question("q1", content, choices),), []
    if form == "messages":
        turns, images = openai_turns(content)
        return (question("q1", turns, choices),), images
    return (_listed(content) if form == "questions" else _llava(content)), []


def _listed(content: Any) -> tuple[Question, ...]:
    if not isinstance(content, list) or not content:
        raise SourceError('"questions" must be a list of at least one question')
    questions = []
    for number, one in enumerate(content, start=1):
        if isinstance(one, dict):
            if one.keys() | {"choices"} != set(QUESTION_KEYS) or not isinstance(one["id"], str):
                raise SourceError('a question is a text or an object of "id" and "question", and "choices"')
            questions.append(question(one["id"], one["question"], one.get("choices")))
        else:
            questions.append(question(f"q{number}", one))
    ids = [question.id for question in questions]
    if len(set(ids)) != len(ids):
        raise SourceError("question ids must differ within a line")
    return tuple(questions)


def _llava(content: Any) -> tuple[Question, ...]:
    """Each human turn as a question of its own; what the other side said is not used."""
    if not isinstance(content, list) or not all(isinstance(turn, dict) for turn in content):
        raise SourceError('"conversations" must be a list of objects of "from" and "value"')
    human = [turn.get("value") for turn in content if turn.get("from") in ("human", "user")]
    if not human or not all(isinstance(text, str) for text in human):
        raise SourceError('"conversations" has no turn of "human" with a text')
    return tuple(
        question(f"q{number}", text.replace("<image>", "").strip())
        for number, text in enumerate(human, start=1)
    )


def openai_turns(messages: Any) -> tuple[Any, list[str]]:
    """Replace OpenAI's image_url parts by our image parts, and return their URLs."""
    if not isinstance(messages, list):
        raise SourceError('"messages" must be a list of turns')
    urls: list[Any] = []
    turns = []
    for turn in messages:
        if isinstance(turn, dict) and isinstance(turn.get("content"), list):
            parts = []
            for part in turn["content"]:
                if isinstance(part, dict) and part.get("type") == "image_url":
                    reference = part.get("image_url")
                    urls.append(reference.get("url") if isinstance(reference, dict) else reference)
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            turn = {**turn, "content": parts}
        turns.append(turn)
    if any(not isinstance(url, str) or not url for url in urls):
        raise SourceError('an "image_url" part has no "url"')
    return turns, urls


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
        raise SourceError(f"{where or 'question'}: {error['msg'].removeprefix('Value error, ')}") from None
