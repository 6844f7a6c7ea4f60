"""Has Pillow open HEIC photos where pillow-heif is installed; knows no limits and no job."""

from importlib.util import find_spec
from typing import Final

HEIF: Final = "HEIF"
"""Pillow's name of the format."""
EXTRA: Final = "heic"
"""Extra of pyproject.toml that installs what registered() needs."""
_HEVC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_MOST_BRANDS: Final = 64


def registered() -> bool:
    """Whether Pillow can open the format now; False where pillow-heif is not installed."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    # Jobs are decoded side by side already, and nothing uses the other images of a file.
    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True


def is_heic(content: bytes) -> bool:
    """Whether the file declares itself HEIC, whatever its name and whoever can decode it."""
    if content[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(content[:4], "big"), len(content), 16 + 4 * _MOST_BRANDS)
    brands = {content[8:12], *(content[place : place + 4] for place in range(16, end, 4))}
    return not brands.isdisjoint(_HEVC_BRANDS)
