"""The user's cache folder of this program; creates nothing."""

from pathlib import Path
from typing import Final

import platformdirs

CACHE: Final = "captionmill"
"""Name of this program's folder among the user's caches."""


def cache_folder() -> Path:
    """The path of the cache folder, which may not exist yet."""
    return platformdirs.user_cache_path(CACHE)
