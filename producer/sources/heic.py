"""HEIC photos: what they are called, and whether this environment can decode them; opens none."""

from importlib.util import find_spec
from typing import Final

HEIC_SUFFIXES: Final = frozenset({".heic", ".heif", ".hif"})
EXTRA: Final = "heic"
"""What `reads_heic` takes, as pyproject.toml names it."""


def reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


def register_heif() -> bool:
    """Have Pillow open them. False where what it takes is not installed."""
    if not reads_heic():
        return False
    import pillow_heif

    # Pictures are decoded side by side already.
    pillow_heif.register_heif_opener(decode_threads=1)
    return True
