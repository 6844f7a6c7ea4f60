"""The complete command that starts a worker for a server, ready to paste; opens no connection."""

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
"""What stands in the command for what is not known here."""
MOST_FOLDERS: Final = 4
"""More folders are stood for by the one that holds them all."""


def start_a_worker(url: str, model: str | None = None, image_folders: Sequence[Path] = ()) -> str:
    """`captionmill worker …` for the server at `url`, and what is to be put in where something is not known.

    `model` is what `captionmill worker --model` takes.
    """
    place, secret = without_password(url)
    words = ["captionmill", "worker", "--redis", place]
    to_put_in = []
    if secret:
        file = password_file()
        words += ["--redis-password-file", PASSWORD_FILE if file is None else os.path.abspath(file)]
        if file is None:
            to_put_in.append(f"{PASSWORD_FILE} is a file whose first line is the server's password")
    words += ["--model", model or MODEL]
    if model is None:
        to_put_in.append(f"{MODEL} is the folder of the model that shall answer")
    for folder in few_folders(image_folders):
        words += ["--image-root", str(folder)]
    line = shown(shlex.join(words))
    return f"{line}  ({'; '.join(to_put_in)})" if to_put_in else line


def no_worker(url: str, then: str, model: str | None = None, image_folders: Sequence[Path] = ()) -> str:
    """The sentence for a server without workers; `then` is a clause: what comes of it."""
    place, _ = without_password(url)
    return (
        f"No worker is alive at {place}, {then}. Start one with:\n"
        f"    {start_a_worker(url, model, image_folders)}"
    )


def few_folders(folders: Sequence[Path]) -> Sequence[Path]:
    """The same, or where there are many the one that holds them all."""
    if len(folders) <= MOST_FOLDERS:
        return folders
    together = Path(os.path.commonpath(folders))
    return folders if together == Path("/") else [together]
