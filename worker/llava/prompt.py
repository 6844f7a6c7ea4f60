"""Turns a conversation into token ids through the checkpoint's own chat template; knows no embeddings.

A text that spells one of the template's control tokens is refused: encoded as the token it would change the
conversation, and encoded as text it would not be what its author sees.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from contract.failure import FailureCode, Refusal
from contract.job import ImagePart, Part, Question, TextPart, Turn
from worker.llava.arrays import IntArray
from worker.llava.folder import ModelFolderError

LEGACY_TEMPLATE_JSON = "chat_template.json"


class PromptWriter:
    """A checkpoint's tokenizer and chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str, image_token_id: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._image_token_id = image_token_id
        self._control_tokens = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in template and not token.content.isspace())
        )

    @classmethod
    def load(cls, folder: Path, image_token_id: int) -> "PromptWriter":
        """Read tokenizer and template. Raises ModelFolderError if one is missing."""
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelFolderError(f"The tokenizer of {folder} cannot be read: {error}") from error
        template = tokenizer.chat_template or _legacy_template(folder)
        if not isinstance(template, str):
            raise ModelFolderError(f"{folder} has no chat template, and prompts are made from it alone.")
        return cls(tokenizer, template, image_token_id)

    def token_ids(self, question: Question, *, with_image: bool) -> IntArray:
        """The prompt (position,) int64, with one image token where the image goes.

        `with_image` places an image in the short form of a question. Raises Refusal(QUESTION_REFUSED).
        """
        turns = question.turns(with_image=with_image)
        for turn in turns:
            self._refuse_control_tokens(turn)
        text = self._render(turns)
        starts_itself = bool(self._tokenizer.bos_token) and text.startswith(self._tokenizer.bos_token)
        encoded = self._tokenizer(text, add_special_tokens=not starts_itself)
        token_ids = np.asarray(encoded["input_ids"], dtype=np.int64)
        images = sum(turn.image_count for turn in turns)
        if np.count_nonzero(token_ids == self._image_token_id) != images:
            raise _refusal("the model's chat template does not place the conversation's image")
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """The text, special tokens left out, without white space around it."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text.strip()

    def _refuse_control_tokens(self, turn: Turn) -> None:
        # Parts are joined, for two of them may spell a token that neither does.
        text = "".join(part.text for part in _parts(turn) if isinstance(part, TextPart))
        for token in self._control_tokens:
            if token in text:
                raise _refusal(f"a {turn.role} turn contains {token!r}, a control token of this model")

    def _render(self, turns: tuple[Turn, ...]) -> str:
        messages = [_message(turn) for turn in turns]
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError) as error:
            raise _refusal(f"the model's chat template refuses the conversation: {error}") from error
        for turn in turns:
            for part in _parts(turn):
                if isinstance(part, TextPart) and part.text.strip() not in text:
                    raise _refusal(f"the model's chat template leaves out text of a {turn.role} turn")
        return text


def expand_image_token(token_ids: IntArray, image_token_id: int, image_tokens: int) -> IntArray:
    """token_ids (position,) with its image token repeated `image_tokens` times."""
    repeats = np.where(token_ids == image_token_id, image_tokens, 1)
    return np.repeat(token_ids, repeats)


def _parts(turn: Turn) -> tuple[Part, ...]:
    return (TextPart(text=turn.content),) if isinstance(turn.content, str) else turn.content


def _message(turn: Turn) -> dict[str, Any]:
    """A turn as templates of vision-language models expect it: content is always a list of parts."""
    content = [
        {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in _parts(turn)
    ]
    return {"role": turn.role, "content": content}


def _legacy_template(folder: Path) -> Any:
    """Where transformers 4 kept a processor's template."""
    path = folder / LEGACY_TEMPLATE_JSON
    return json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None


def _refusal(reason: str) -> Refusal:
    return Refusal(FailureCode.QUESTION_REFUSED, f"The question cannot be asked: {reason}.")
