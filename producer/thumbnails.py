"""Makes small JPEGs of images of any kind; knows no page and no run."""

import io
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from PIL import Image, ImageOps

from producer.sources.heic import register_heif

QUALITIES: Final = (80, 60, 40, 25)
MIN_PX: Final = 32
MAX_PX: Final = 64_000_000
"""Height times width of the largest image that is decoded."""
FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *(("HEIF",) if register_heif() else ()),
)


def thumbnails(
    images: Iterable[bytes | None], *, side_px: int, max_bytes: int
) -> Generator[bytes | None, None, None]:
    """Thumbnails in the images' order, made by one thread per core; few images are in memory at once."""
    threads = len(os.sched_getaffinity(0))
    # The thumbnail itself shows what Pillow warns of. Filters belong to the process, not to a thread.
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        waiting: deque[Future[bytes | None]] = deque()
        for image in images:
            waiting.append(pool.submit(thumbnail, image, side_px=side_px, max_bytes=max_bytes))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def thumbnail(content: bytes | None, *, side_px: int, max_bytes: int) -> bytes | None:
    """A JPEG of the image, upright, transparency on white; None if it cannot be decoded.

    Lower quality and then smaller sizes are tried until it fits into `max_bytes`.
    """
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if height * width > MAX_PX:
                return None
            image.draft("RGB", (2 * side_px, 2 * side_px))
            small = ImageOps.exif_transpose(image)
            if small.mode.startswith("I"):
                small = small.point(lambda grey: grey / 257).convert("L")
            small.thumbnail((side_px, side_px))
            with_alpha = small.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return _jpeg(Image.alpha_composite(white, with_alpha).convert("RGB"), max_bytes)
    except Exception:  # noqa: BLE001 - the worker says what is wrong with the file
        return None


def _jpeg(picture: Image.Image, max_bytes: int) -> bytes:
    while True:
        for quality in QUALITIES:
            jpeg = io.BytesIO()
            picture.save(jpeg, "JPEG", quality=quality)
            if jpeg.tell() <= max_bytes:
                return jpeg.getvalue()
        if max(picture.size) <= MIN_PX:
            return jpeg.getvalue()
        picture = picture.resize((max(1, picture.width * 2 // 3), max(1, picture.height * 2 // 3)))
