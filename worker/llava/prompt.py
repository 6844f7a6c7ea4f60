"""Turns conversations into token ids by the checkpoint's chat template, and back into text; knows no image.

A text that spells one of the template's control tokens is refused. Encoded as the token, it would change the
conversation; encoded as text, it would not be what its author sees.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError
from transformers import PreTrainedTokenizerFast

from contract.chat_template import PROBED, ContentForm, content_form, messages, parts_of, starts_itself
from contract.failure import FailureCode, Refusal
from contract.job import Question, TextPart, Turn
from contract.model_folder import TileMarks
from worker.llava.arrays import IntArray
from worker.llava.folder import ModelFolder, ModelFolderError
from worker.llava.image_run import ImageRun, PlainRun, RowRun, TileRun
from worker.llava.stop import StopTexts
from worker.llava.template_trial import complaint

LEGACY_TEMPLATE_JSON = "chat_template.json"
TEMPLATE_ERRORS = (TemplateError, TypeError, AttributeError, ValueError, LookupError)
"""Exceptions of templates on messages that they do not support."""
SHRINKING = 4
"""Most characters that a tokenizer's normalizer composes into one."""
LARGEST_GRID = (20, 20)
"""(height, width) in tiles of the largest grid whose marks no text may spell."""
REPLACEMENT = "\ufffd"
"""What a tokenizer writes for bytes that are not a complete character."""


class PromptWriter:
    """A checkpoint's tokenizer and chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        image_token_id: int,
        marks: TileMarks | None = None,
    ) -> None:
        """`marks` stand between the tiles of an image."""
        self._tokenizer = tokenizer
        self._template = template
        self._image_token_id = image_token_id
        self._form = self._content_form()
        self._longest_characters = _longest_token(tokenizer)
        written = template if marks is None else template + marks.text(LARGEST_GRID, "")
        self._control_tokens = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or (token.content in written and not token.content.isspace())
        )

    @classmethod
    def load(cls, folder: Path, image_token_id: int, marks: TileMarks | None = None) -> "PromptWriter":
        """Read tokenizer and template. Raises ModelFolderError if one is missing or not fit to be run."""
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ModelFolderError(f"The tokenizer of {folder} cannot be read: {error}") from error
        template = tokenizer.chat_template or _legacy_template(folder)
        if not isinstance(template, str):
            raise ModelFolderError(
                f"{folder} has no chat template; convert the checkpoint with --chat-template."
            )
        if (why := complaint(lambda: _render_trial(tokenizer, template))) is not None:
            raise ModelFolderError(
                f"The chat template of {folder} {why}; load only folders of people you trust."
            )
        return cls(tokenizer, template, image_token_id, marks)

    def least_tokens(self, question: Question) -> int:
        """A lower bound of the tokens in the question's longest text, without encoding; 0 if none is known.

        A tokenizer takes seconds for megabytes that no model's context holds.
        """
        if not self._longest_characters:
            return 0
        turns = question.turns(with_image=False)
        texts = [part.text for turn in turns for part in parts_of(turn) if isinstance(part, TextPart)]
        longest = max((len("".join(text.split())) for text in (*texts, *(question.choices or ()))), default=0)
        return longest // (SHRINKING * self._longest_characters)

    def image_run(self, folder: ModelFolder) -> ImageRun:
        """Writes the tokens of an image. Raises ModelFolderError if the tokenizer lacks marks of it."""
        image_token_id = self._image_token_id
        if folder.packing == "rows":
            return RowRun.load(folder.path, self._tokenizer, image_token_id)
        if folder.marks is None:
            return PlainRun(image_token_id)
        image_token = str(self._tokenizer.convert_ids_to_tokens(image_token_id))
        return TileRun(folder.marks, image_token, image_token_id, self._encode_within)

    def token_ids(self, question: Question, *, with_image: bool, images: int = 1) -> IntArray:
        """The prompt (position,) int64, with one image token in the place of each image.

        `with_image` places `images` in the short form of a question. Raises Refusal(QUESTION_REFUSED).
        """
        turns = question.turns(with_image=with_image, images=images)
        for turn in turns:
            self._refuse_control_tokens(turn)
        token_ids = np.asarray(self._encode(self._render(turns)), dtype=np.int64)
        placed = sum(turn.image_count for turn in turns)
        if np.count_nonzero(token_ids == self._image_token_id) != placed:
            what = "image" if placed <= 1 else f"{placed} images"
            raise _refusal(f"the model's chat template does not place the conversation's {what}")
        return token_ids

    def choice_ids(
        self, question: Question, eos_token_ids: Sequence[int], *, with_image: bool, images: int = 1
    ) -> tuple[tuple[int, ...], ...]:
        """Token ids that the model would generate after the prompt for each of the question's choices.

        Each ends in one end-of-sequence token: the one that the template puts after an answer, else the
        first. Raises Refusal(QUESTION_REFUSED) for choices that the model cannot generate or cannot tell
        apart.
        """
        assert question.choices, "a question without choices"
        turns = question.turns(with_image=with_image, images=images)
        prompt = self._render(turns)
        found: dict[tuple[int, ...], str] = {}
        for choice in question.choices:
            turn = Turn(role="assistant", content=choice.strip())
            self._refuse_control_tokens(turn)
            text_ids, rest = self._answer_ids(prompt, turns, turn)
            token_ids = (*text_ids, self._end_in(rest, eos_token_ids))
            if not text_ids or self._tokenizer.unk_token_id in text_ids:
                raise _refusal(f"this model has no tokens for the choice {choice!r}")
            if token_ids in found:
                raise _refusal(f"the choices {found[token_ids]!r} and {choice!r} are the same tokens")
            found[token_ids] = choice
        return tuple(found)

    def stop_texts(self, texts: Sequence[str]) -> StopTexts:
        """Looks for `texts`, at least one, in new tokens."""
        return StopTexts(texts, lambda token_ids: str(self._tokenizer.decode(list(token_ids))))

    def decode(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text before the first of the texts `stop`, stripped, without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=not stop)
        if stop:
            # Stop texts may contain special tokens, so these are removed only now.
            text = self._without_special_tokens(self.stop_texts(stop).cut(text))
        return text.strip()

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The beginning of decode()'s text that further tokens cannot change.

        A character whose bytes are not all there, and what may become a stop text, are held back.
        """
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=not stop)
        text = text.rstrip(REPLACEMENT)
        if stop:
            text = self._without_special_tokens(self.stop_texts(stop).settled(text))
        return text.strip()

    def _without_special_tokens(self, text: str) -> str:
        for token in self._tokenizer.all_special_tokens:
            text = text.replace(token, "")
        return text

    def _encode(self, text: str) -> list[int]:
        """Token ids of a rendered text, which may contain its beginning-of-sequence token."""
        add = not starts_itself(text, self._tokenizer.bos_token)
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=add)["input_ids"]
        return token_ids

    def _encode_within(self, text: str) -> list[int]:
        """Token ids of a text that stands within a prompt."""
        token_ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return token_ids

    def _answer_ids(self, prompt: str, turns: tuple[Turn, ...], turn: Turn) -> tuple[list[int], str]:
        """Token ids of an answer after the rendered prompt, and the text that the template puts after it.

        Where template or tokenizer do not continue the prompt, the token ids are those of the bare text.
        """
        assert isinstance(turn.content, str)
        try:
            whole = self._render((*turns, turn), answered=True)
        except Refusal:
            whole = ""
        answer = whole.removeprefix(prompt).lstrip()
        if whole.startswith(prompt) and answer.startswith(turn.content):
            rest = answer.removeprefix(turn.content)
            before, through = self._encode(prompt), self._encode(whole.removesuffix(rest))
            if through[: len(before)] == before:
                return through[len(before) :], rest
        return self._encode_within(turn.content), ""

    def _end_in(self, rest: str, eos_token_ids: Sequence[int]) -> int:
        """The end-of-sequence token that `rest` begins with, else the first one."""
        for token_id in eos_token_ids:
            token = self._tokenizer.convert_ids_to_tokens(token_id)
            if token and rest.lstrip().startswith(token):
                return token_id
        return eos_token_ids[0]

    def _refuse_control_tokens(self, turn: Turn) -> None:
        # Parts are joined, as two of them may spell a token together.
        text = "".join(part.text for part in parts_of(turn) if isinstance(part, TextPart))
        for token in self._control_tokens:
            if token in text:
                raise _refusal(f"a {turn.role} turn contains {token!r}, a control token of this model")

    def _render(self, turns: tuple[Turn, ...], *, answered: bool = False) -> str:
        """The conversation as text up to where the answer begins or, if `answered`, with the answer."""
        try:
            text = self._through_template(messages(turns, self._form), answered=answered)
        except TEMPLATE_ERRORS as error:
            raise _refusal(f"the model's chat template refuses the conversation: {error}") from error
        for turn in turns:
            for part in parts_of(turn):
                if isinstance(part, TextPart) and part.text.strip() not in text:
                    raise _refusal(f"the model's chat template leaves out text of a {turn.role} turn")
        return text

    def _through_template(self, conversation: list[dict[str, Any]], *, answered: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            conversation, chat_template=self._template, tokenize=False, add_generation_prompt=not answered
        )
        return text

    def _content_form(self) -> ContentForm:
        """The template's form; of a template for text alone the form that questions without image pass in.

        A template of neither form is given parts and refuses question by question.
        """
        image_token = self._tokenizer.convert_ids_to_tokens(self._image_token_id)
        found = content_form(self._through_template, str(image_token), TEMPLATE_ERRORS)
        return "string" if found in ("string", "text") else "parts"


def _render_trial(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """A short question rendered in both forms; the longer text. Raises SecurityError, and resource errors."""
    rendered = [""]
    for form in ("parts", "string"):
        try:
            rendered.append(
                tokenizer.apply_chat_template(
                    messages((PROBED,), form),
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except SecurityError:
            raise
        except TEMPLATE_ERRORS:
            continue  # it takes the other form
    return max(rendered, key=len)


def _longest_token(tokenizer: PreTrainedTokenizerFast) -> int:
    """Number of characters of the longest token; 0 if one token may stand for a text of any length."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model, before = spec.get("model") or {}, json.dumps([spec.get("pre_tokenizer"), spec.get("normalizer")])
    if model.get("type") != "BPE" or not (model.get("byte_fallback") or '"ByteLevel"' in before):
        return 0
    return max(map(len, tokenizer.get_vocab()), default=0)


def _legacy_template(folder: Path) -> Any:
    """The template from where transformers 4 kept it."""
    path = folder / LEGACY_TEMPLATE_JSON
    return json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None


def _refusal(reason: str) -> Refusal:
    return Refusal(FailureCode.QUESTION_REFUSED, f"The question cannot be asked: {reason}.")
