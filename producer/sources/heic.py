"""Names of HEIC photos, and whether this environment can decode them; opens none."""

from importlib.util import find_spec
from typing import Final

HEIC_SUFFIXES: Final = frozenset({".heic", ".heif", ".hif"})
EXTRA: Final = "heic"
"""The extra in pyproject.toml that installs the decoder."""


def reads_heic() -> bool:
    return find_spec("pillow_heif") is not None


def register_heif() -> bool:
    """Have Pillow open HEIC photos. False if the decoder is not installed."""
    if not reads_heic():
        return False
    import pillow_heif

    # Images are decoded in parallel already.
    pillow_heif.register_heif_opener(decode_threads=1)
    return True
