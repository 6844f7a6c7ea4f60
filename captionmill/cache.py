"""Where the command keeps what it can make again."""

from pathlib import Path
from typing import Final

import platformdirs

CACHE: Final = "captionmill"
"""The program's name among the user's cache folders."""


def cache_folder() -> Path:
    """The user's cache folder of this program; it may not exist yet."""
    return platformdirs.user_cache_path(CACHE)
