"""Computes content keys, equal for questions that get equal answers; knows no file and no ledger."""

import hashlib
import json
from typing import Final

from contract.job import Detail, GenerationParameters, Question

KEY_BYTES: Final = 16


def question_key(
    image: bytes | None, question: Question, parameters: GenerationParameters, detail: Detail
) -> bytes:
    """A digest of KEY_BYTES. `image` is a digest of the image's bytes or of its URL; None is no image.

    The key leaves out the question's id and what has no effect: `detail` without an image, and for a question
    with choices all parameters but the length penalty. The model is stored beside the key.
    """
    content = {
        "image": None if image is None else image.hex(),
        "messages": question.model_dump(mode="json")["messages"],
        "choices": question.choices,
        "parameters": effective(parameters, choices=question.choices is not None).model_dump(mode="json"),
        "detail": None if image is None else detail,
    }
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=KEY_BYTES).digest()


def effective(parameters: GenerationParameters, *, choices: bool) -> GenerationParameters:
    """The parameters that have an effect: with choices, the length penalty alone."""
    return GenerationParameters(length_penalty=parameters.length_penalty) if choices else parameters
