"""How a conversation is put to a checkpoint's chat template, by whoever converts it and whoever asks it.

There are two forms. In "parts" a turn's content is a list, and the template writes the image token where the
image's part stands. In "string" it is text, and the template writes the image token itself, as JoyCaption's.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from contract.job import ImagePart, Part, TextPart, Turn

ContentForm = Literal["parts", "string"]
Rendered = Literal["parts", "string", "text"]
"""What a template turned out to be: one of the forms, or one for text alone."""
Message = dict[str, Any]
Render = Callable[[list[Message]], str]
"""Messages through the template. May raise whatever the template does."""

PROBE: Final = "What is shown here?"
PRINTED_PARTS: Final = ("{'type'", '{"type"')
"""How a list looks that a template took for text."""
PROBED: Final = Turn(role="user", content=(ImagePart(), TextPart(text=PROBE)))


def parts_of(turn: Turn) -> tuple[Part, ...]:
    """The turn's content as parts."""
    return (TextPart(text=turn.content),) if isinstance(turn.content, str) else turn.content


def message(turn: Turn, form: ContentForm) -> Message:
    """A turn as templates of this form expect it."""
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
    """Which form a template takes, found by rendering a question about an image; None if neither.

    `render` may raise `errors`: the template does not take what it was given.
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
    """Whether a rendered text brings its beginning-of-sequence token: the tokenizer is to add none then."""
    return bos_token is not None and bos_token != "" and text.startswith(bos_token)


def _renders(
    render: Render, form: ContentForm, image_token: str, errors: tuple[type[Exception], ...]
) -> Literal["image", "text"] | None:
    """What of the probe comes through: its text with one image token, its text alone, or neither."""
    try:
        text = render([message(PROBED, form)])
    except errors:
        return None
    if text.count(PROBE) != 1 or any(printed in text for printed in PRINTED_PARTS):
        return None
    images = text.count(image_token)
    return "image" if images == 1 else "text" if images == 0 else None
