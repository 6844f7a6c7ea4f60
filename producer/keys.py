"""Computes content keys, equal for questions that get equal answers; knows no file and no ledger."""

import hashlib
import json
from typing import Final

from contract.job import Detail, GenerationParameters, Question, choosing

KEY_BYTES: Final = 16


def question_key(
    image: bytes | None, question: Question, parameters: GenerationParameters, detail: Detail
) -> bytes:
    """A digest of KEY_BYTES. `image` is a digest of the image's bytes or of its URL; None is no image.

    The key leaves out the question's id and what has no effect: `detail` and `visual_tokens` without image,
    and for a question with choices what its choices do not depend on. The model is stored beside the key.
    """
    used = effective(parameters, choices=question.choices is not None).model_dump(mode="json")
    if image is None or used["visual_tokens"] is None:
        del used["visual_tokens"]  # as in keys from before it was there
    content = {
        "image": None if image is None else image.hex(),
        "messages": question.model_dump(mode="json")["messages"],
        "choices": question.choices,
        "parameters": used,
        "detail": None if image is None else detail,
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=KEY_BYTES).digest()


def effective(parameters: GenerationParameters, *, choices: bool) -> GenerationParameters:
    """The parameters that have an effect on a question with choices, or on another."""
    return choosing(parameters) if choices else parameters
