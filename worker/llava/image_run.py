"""The run of tokens that stands for an image in a prompt; knows no features.

For most models it is the image token once for each feature. Where images are read row by row, a break token
follows each row of patches and an end token the last.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.llava.arrays import IntArray
from worker.llava.folder import ModelFolderError

PROCESSOR_CONFIG_JSON = "processor_config.json"
BREAK_TOKEN = "[IMG_BREAK]"
END_TOKEN = "[IMG_END]"
"""What the marks are called where processor_config.json does not say."""


@dataclass(frozen=True)
class RowMarks:
    """The tokens after each row of an image and after its last."""

    break_id: int
    end_id: int

    @classmethod
    def load(cls, folder: Path, tokenizer: Any) -> "RowMarks":
        """As the folder's processor names them. Raises ModelFolderError if there are no such tokens."""
        path = folder / PROCESSOR_CONFIG_JSON
        named = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        tokens = [named.get("image_break_token", BREAK_TOKEN), named.get("image_end_token", END_TOKEN)]
        vocabulary = tokenizer.get_vocab()
        for token in tokens:
            if token not in vocabulary:
                raise ModelFolderError(f"{folder} has no token {token}, which ends the rows of an image.")
        return cls(*(vocabulary[token] for token in tokens))


def image_run(
    image_token_id: int, image_tokens: int, columns: int | None = None, marks: RowMarks | None = None
) -> IntArray:
    """token ids (position,) of an image of `image_tokens` features, in rows of `columns` if it has rows."""
    if columns is None:
        return np.full(image_tokens, image_token_id, dtype=np.int64)
    assert marks is not None
    rows = np.full((image_tokens // columns, columns + 1), image_token_id, dtype=np.int64)
    rows[:, -1] = marks.break_id
    rows[-1, -1] = marks.end_id
    return rows.reshape(-1)


def place_run(token_ids: IntArray, image_token_id: int, run: IntArray) -> IntArray:
    """token_ids (position,) with `run` in the place of each image token."""
    pieces = np.split(token_ids, np.flatnonzero(token_ids == image_token_id))
    return np.concatenate([pieces[0], *(np.concatenate([run, piece[1:]]) for piece in pieces[1:])])
