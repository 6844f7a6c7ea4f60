"""Writes the complete command that starts a worker for a server, ready to paste; opens no connection."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contract.redis_url import without_password
from producer.settings import password_file
from producer.sources import shown

MODEL: Final = "MODEL"
PASSWORD_FILE: Final = "PASSWORD_FILE"
"""Placeholders in the command for what is not known here."""
MOST_FOLDERS: Final = 4
"""Number of folders that the command names; if there are more, it names the folder above all."""


def start_a_worker(url: str, model: str | None = None, image_folders: Sequence[Path] = ()) -> str:
    """`captionmill worker …` for the server at `url`, with an explanation of its placeholders.

    `model` is the value for --model.
    """
    place, secret = without_password(url)
    words = ["captionmill", "worker", "--redis", place]
    placeholders = []
    if secret:
        file = password_file()
        words += ["--redis-password-file", PASSWORD_FILE if file is None else os.path.abspath(file)]
        if file is None:
            placeholders.append(f"{PASSWORD_FILE} is a file whose first line is the server's password")
    words += ["--model", model or MODEL]
    if model is None:
        placeholders.append(f"{MODEL} is the folder of the model that shall answer")
    for folder in few_folders(image_folders):
        words += ["--image-root", str(folder)]
    line = shown(shlex.join(words))
    return f"{line}  ({'; '.join(placeholders)})" if placeholders else line


def no_worker(url: str, then: str, model: str | None = None, image_folders: Sequence[Path] = ()) -> str:
    """The sentence for a server without workers; `then` is a clause with the consequence."""
    place, _ = without_password(url)
    return (
        f"No worker is alive at {place}, {then}. Start one with:\n"
        f"    {start_a_worker(url, model, image_folders)}"
    )


def few_folders(folders: Sequence[Path]) -> Sequence[Path]:
    """The folders; if there are too many, the folder above all."""
    if len(folders) <= MOST_FOLDERS:
        return folders
    together = Path(os.path.commonpath(folders))
    return folders if together == Path("/") else [together]
