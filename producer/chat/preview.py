"""Makes images that a browser can show; knows no page."""

from pathlib import Path
from typing import Final

from producer.sources.heic import HEIC_SUFFIXES
from producer.thumbnails import thumbnail

SIDE_PX: Final = 1024
MAX_BYTES: Final = 1 << 20


def preview_of(image: Path) -> Path:
    """The image itself; for a HEIC photo, which few browsers show, a JPEG that is written beside it."""
    if image.suffix.lower() not in HEIC_SUFFIXES:
        return image
    jpeg = thumbnail(image.read_bytes(), side_px=SIDE_PX, max_bytes=MAX_BYTES)
    if jpeg is None:
        return image
    preview = image.with_name(f"{image.name}.jpg")
    preview.write_bytes(jpeg)
    return preview
