"""How a conversation is passed to a checkpoint's chat template; knows no tokenizer.

There are two forms. In "parts" a turn's content is a list, and the template writes an image token in place of
each image part. In "string" it is text, and the template adds the image token, as JoyCaption's does.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from contract.job import ImagePart, Part, TextPart, Turn

ContentForm = Literal["parts", "string"]
Rendered = Literal["parts", "string", "text"]
"""What a template accepts: one of the two forms with an image, or text only."""
Message = dict[str, Any]
Render = Callable[[list[Message]], str]
"""Renders messages with the template. May raise whatever the template raises."""

PROBE: Final = "What is shown here?"
PRINTED_PARTS: Final = ("{'type'", '{"type"')
"""Beginnings of a content list that a template has printed as if it were text."""
PROBED: Final = Turn(role="user", content=(ImagePart(), TextPart(text=PROBE)))


def parts_of(turn: Turn) -> tuple[Part, ...]:
    """The turn's content as a tuple of parts."""
    return (TextPart(text=turn.content),) if isinstance(turn.content, str) else turn.content


def message(turn: Turn, form: ContentForm) -> Message:
    """A turn in the form that the template expects."""
    parts = parts_of(turn)
    if form == "string":
        return {
            "role": turn.role,
            "content": "\n".join(part.text for part in parts if isinstance(part, TextPart)),
        }
    content = [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in parts
    ]
    return {"role": turn.role, "content": content}


def messages(turns: Sequence[Turn], form: ContentForm) -> list[Message]:
    return [message(turn, form) for turn in turns]


def content_form(render: Render, image_token: str, errors: tuple[type[Exception], ...]) -> Rendered | None:
    """The form that a template accepts, found by rendering a question about an image; None if neither works.

    `errors` are what `render` raises when the template rejects a form.
    """
    if _renders(render, "parts", image_token, errors) == "image":
        return "parts"
    match _renders(render, "string", image_token, errors):
        case "image":
            return "string"
        case "text":
            return "text"
    return "text" if _renders(render, "parts", image_token, errors) == "text" else None


def starts_itself(text: str, bos_token: str | None) -> bool:
    """Whether a rendered text begins with the bos token, so that the tokenizer must not add another one."""
    return bos_token is not None and bos_token != "" and text.startswith(bos_token)


def _renders(
    render: Render, form: ContentForm, image_token: str, errors: tuple[type[Exception], ...]
) -> Literal["image", "text"] | None:
    """What the rendered probe contains: its text and one image token, its text only, or neither."""
    try:
        text = render([message(PROBED, form)])
    except errors:
        return None
    if text.count(PROBE) != 1 or any(printed in text for printed in PRINTED_PARTS):
        return None
    images = text.count(image_token)
    return "image" if images == 1 else "text" if images == 0 else None
