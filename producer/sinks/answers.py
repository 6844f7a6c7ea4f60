"""Describes an answered row for sinks: its JSON line, its caption, its image's name; knows no file."""

from typing import Any, Final

from contract.answer import Answer
from contract.job import ImagePath, ImageUrl
from producer.rows import Answered, AnsweredRow, RowImage
from producer.sinks.sink import SinkOptions

NO_ANSWER: Final = "a question about it failed"


def answer_line(row: AnsweredRow) -> dict[str, Any]:
    """The row's line in answers.jsonl, with an answer or a failure for every question."""
    return {
        "index": row.position,
        "id": row.id,
        "image": image_text(row),
        **({"images": image_texts(row)} if row.more_images else {}),
        "name": row.name,
        **({"columns": dict(row.columns)} if row.columns else {}),
        "model": row.model,
        "answers": [one_answer(one) for one in row.answers],
    }


def one_answer(answered: Answered) -> dict[str, Any]:
    prompt = answered.prompt if isinstance(answered.prompt, str) else list(answered.prompt)
    line: dict[str, Any] = {"question": answered.question, "prompt": prompt}
    fields = answered.outcome.model_dump(mode="json", exclude={"kind"})
    return {**line, **fields} if isinstance(answered.outcome, Answer) else {**line, "failure": fields}


def image_text(row: AnsweredRow) -> str | None:
    """The first image's path or URL; None for an image within another file."""
    return _text(row.image)


def image_texts(row: AnsweredRow) -> list[str | None]:
    """The same for each image of a row that has several."""
    return [_text(image) for image in (row.image, *row.more_images)]


def _text(image: RowImage | None) -> str | None:
    if isinstance(image, ImagePath):
        return str(image.to_path())
    return image.url if isinstance(image, ImageUrl) else None


def answers_of(row: AnsweredRow) -> list[tuple[Answered, Answer]]:
    return [(one, one.outcome) for one in row.answers if isinstance(one.outcome, Answer)]


def caption(row: AnsweredRow, options: SinkOptions) -> tuple[str | None, str]:
    """(the row's caption, ""), or (None, why there is none)."""
    asked = [one for one in row.answers if options.question in (None, one.question)]
    if not asked:
        return None, f'the question "{options.question}" was not asked about it'
    answers = [one.outcome for one in asked if isinstance(one.outcome, Answer)]
    if len(answers) < len(asked):
        return None, NO_ANSWER
    return options.prefix + options.separator.join(answer.text for answer in answers) + options.suffix, ""


def prompt_text(prompt: str | tuple[dict[str, Any], ...]) -> str:
    """A question's text; for a conversation its turns, each after its role."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn_text(turn, '[image]', between=' ')}" for turn in prompt)


def turn_text(turn: dict[str, Any], image: str, *, between: str) -> str:
    """A turn's text, with `image` in the image's place, and `between` between the parts."""
    content = turn["content"]
    if isinstance(content, str):
        return content
    return between.join(part["text"] if part["type"] == "text" else image for part in content)
