"""Finds a checkpoint's chat template, or reads a given one, and determines its form; knows no weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import TemplateError
from transformers import PretrainedConfig, ProcessorMixin

from contract.chat_template import ContentForm, Message, Rendered, content_form, messages, starts_itself
from contract.job import ImagePart, TextPart, Turn
from model_prep.conversations import CONVERSATIONS, named_template, proposed
from model_prep.families.family import Family
from model_prep.refusal import ConversionError

TEMPLATE_ERRORS: Final = (TemplateError, TypeError, AttributeError, ValueError, LookupError)
"""What a template may raise on messages that it does not support."""


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the form of messages that it accepts."""

    text: str
    form: ContentForm

    def ask(self, tokenizer: Any, question: str) -> str:
        """The rendered prompt of a question about an image."""
        turn = Turn(role="user", content=(ImagePart(), TextPart(text=question)))
        return _rendered(tokenizer, self.text, messages([turn], self.form))


def choose_template(
    given: str | None, processor: ProcessorMixin, family: Family, config: PretrainedConfig, source: str
) -> ChatTemplate:
    """The template `given` as a file or conversation name; the checkpoint's own if None.

    Raises ConversionError if it does not support questions about images.
    """
    image_token = str(processor.image_token)
    if given is not None:
        text = _given_template(given, image_token)
        form = _form(processor.tokenizer, text, image_token)
        if form in ("parts", "string"):
            return ChatTemplate(text, form)
        raise ConversionError(
            f"The chat template {given} is not one for {source}: it does not render a question about an "
            f"image with one {image_token} in it."
        )
    found: set[Rendered | None] = set()
    for own in (_default(processor.chat_template), _default(processor.tokenizer.chat_template)):
        if own is not None:
            form = _form(processor.tokenizer, own, image_token)
            if form in ("parts", "string"):
                return ChatTemplate(own, form)
            found.add(form)
    raise ConversionError(_missing(found, proposed(family, config, processor.tokenizer), source, image_token))


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a rendered prompt, with one bos token if the tokenizer adds one."""
    add = not starts_itself(text, tokenizer.bos_token)
    token_ids: list[int] = tokenizer(text, add_special_tokens=add)["input_ids"]
    return token_ids


def _given_template(given: str, image_token: str) -> str:
    if given in CONVERSATIONS:
        return named_template(given, image_token)
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise ConversionError(
            f"--chat-template {given} is no file that can be read and no conversation; "
            f"conversations are {', '.join(CONVERSATIONS)}."
        ) from None


def _missing(found: set[Rendered | None], name: str | None, source: str, image_token: str) -> str:
    """A sentence about a checkpoint without a template for images, and what to do."""
    if not found:
        has = "has no chat template"
    elif "text" in found:
        has = "has a chat template for text alone, without a place for the image"
    else:
        has = (
            f"has a chat template that does not render a question about an image with one {image_token} in it"
        )
    wanted = (
        f"--chat-template {name} gives the one that such checkpoints are trained with"
        if name is not None
        else f"--chat-template gives one, a file or a name of {', '.join(CONVERSATIONS)}"
    )
    return f"{source} {has}; {wanted}."


def _default(template: Any) -> str | None:
    """The default template, if there are several by name."""
    if isinstance(template, dict):
        template = template.get("default", next(iter(template.values()), None))
    return template if isinstance(template, str) and template.strip() else None


def _form(tokenizer: Any, template: str, image_token: str) -> Rendered | None:
    return content_form(
        lambda conversation: _rendered(tokenizer, template, conversation), image_token, TEMPLATE_ERRORS
    )


def _rendered(tokenizer: Any, template: str, conversation: list[Message]) -> str:
    text: str = tokenizer.apply_chat_template(
        conversation, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return text
