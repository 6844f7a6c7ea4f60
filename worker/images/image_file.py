"""Reads an image file that strangers may have made, within limits; knows no model and no job."""

import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from contract.failure import FailureCode, Refusal
from contract.installing import install_line
from contract.quoting import quoted
from worker.errors import attempt
from worker.images import heif
from worker.images.jpeg_scans import has_every_scan, lacks_end, scan_count
from worker.images.png_chunks import pixels_alone

FORMATS: Final = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"),
    *((heif.HEIF,) if heif.registered() else ()),
)
JPEG: Final = ("JPEG", "MPO")
"""Pillow's names of the format; MPO is a JPEG with further pictures behind it."""
END: Final = b"\xff\xd9"
FILLER: Final = b"".join(b"\x5a\x69\xc3\x37" * 64 + bytes((0xFF, 0xD0 + restart)) for restart in range(8))
"""Bytes that a decoder takes for missing pixels, with every restart marker that it may wait for."""
MAX_SCANS: Final = 100
"""Most scans of a JPEG; progressive ones have about ten."""
WIDE_GREY_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit grey. Pillow clips them to 8 bits, so they are scaled first."""
UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → the transposition that undoes it; all other values mean upright."""
OUT_OF_MEMORY: Final = "out of memory"
"""Beginning of Pillow's OSError when one of its decoders has no memory left."""
SHOWN_CHARACTERS: Final = 200

# For the whole process, as catch_warnings around each call is not thread-safe.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded; a larger image is refused with IMAGE_TOO_LARGE, a narrower one with IMAGE_ASPECT.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides while `draft_px` pixels are left; 0 always decodes all.
    """

    max_bytes: int
    max_px: int
    max_side_px: int
    max_aspect: float
    draft_px: int = 0


def shown(path: Path) -> str:
    """The path for a sentence, with escapes for what is not UTF-8 or moves a terminal's cursor."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_bytes(path: Path, roots: tuple[Path, ...], max_bytes: int) -> bytes:
    """The content of a regular file below one of `roots`, which are resolved folders.

    `path` is absolute or relative to one of `roots`. Raises Refusal.
    """
    with _reading(path, roots) as descriptor, open(descriptor, "rb", closefd=False) as file:
        content = file.read(max_bytes + 1)
    check_bytes(quoted(path), len(content), max_bytes)
    return content


def check_bytes(name: str, size_bytes: int, max_bytes: int) -> None:
    """Raise Refusal if the image file `name` of `size_bytes` is larger than allowed or empty."""
    if size_bytes > max_bytes:
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE,
            f"{name} has more than the {max_bytes} bytes that are allowed "
            "(CAPTIONMILL_IMAGE_MAX_BYTES of the worker).",
        )
    if not size_bytes:
        raise Refusal(FailureCode.NOT_AN_IMAGE, f"{name} is empty.")


def read_member(
    path: Path, roots: tuple[Path, ...], max_bytes: int, offset: int, size_bytes: int, name: str
) -> bytes:
    """The `size_bytes` bytes from `offset` of a shard, which is a file as in read_bytes(). Raises Refusal."""
    member = f"{quoted(name)} in {quoted(path)}"
    check_bytes(member, size_bytes, max_bytes)
    with _reading(path, roots) as descriptor, open(descriptor, "rb", closefd=False) as file:
        file.seek(offset)
        content = file.read(size_bytes)
    if len(content) < size_bytes:
        raise Refusal(
            FailureCode.IMAGE_UNREADABLE, f"{member} cannot be read: the shard ends before the member does."
        )
    return content


@contextmanager
def _reading(path: Path, roots: tuple[Path, ...]) -> Iterator[int]:
    """As _opened(), with the system's errors as Refusals."""
    try:
        with _opened(path, roots) as descriptor:
            yield descriptor
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal(FailureCode.IMAGE_NOT_FOUND, f"There is no file {quoted(path)}.") from None
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Refusal(FailureCode.IMAGE_UNREADABLE, f"{quoted(path)} cannot be read: {reason}.") from None


@contextmanager
def _opened(path: Path, roots: tuple[Path, ...]) -> Iterator[int]:
    """A descriptor of the regular file, closed at the end."""
    real = _resolved(path, roots)
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # The path may have changed since it was resolved; the descriptor cannot change.
        opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not any(opened.is_relative_to(root) for root in roots):
            raise _outside(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refusal(FailureCode.IMAGE_NOT_ALLOWED, f"{quoted(path)} is not a regular file.")
        yield descriptor
    finally:
        os.close(descriptor)


def _resolved(path: Path, roots: tuple[Path, ...]) -> Path:
    """The real path below one of the roots; a relative path is looked up in each root in turn."""
    candidates = [path] if path.is_absolute() else [root / path for root in roots]
    allowed = [
        real
        for real in (Path(os.path.realpath(c)) for c in candidates)
        if any(map(real.is_relative_to, roots))
    ]
    if not allowed:
        raise _outside(path)
    return next((real for real in allowed if real.exists()), allowed[0])


def _outside(path: Path) -> Refusal:
    return Refusal(FailureCode.IMAGE_NOT_ALLOWED, f"{quoted(path)} is outside the worker's image roots.")


def decode_image(content: bytes, limits: ImageLimits) -> Image.Image:
    """The first frame in mode RGB, upright as its EXIF says, transparency on white.

    Of a HEIC photo it is the primary picture, turned as its container says. Its EXIF only repeats that, so
    pillow-heif takes the orientation out. Raises Refusal and MemoryError.
    """
    if heif.HEIF not in FORMATS and heif.is_heic(content):
        raise Refusal(
            FailureCode.NOT_AN_IMAGE,
            "The file is a HEIC photo, and this worker cannot decode those: "
            f"{install_line(heif.EXTRA)} where it runs.",
        )
    with _decoding(content, limits):
        content = pixels_alone(content)
        image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        check_size(image.height, image.width, limits)
        if image.format in JPEG:
            _check_scans(content)
            if lacks_end(content):
                image = _ended(content, limits)
        if image.format != heif.HEIF:
            image.seek(0)
        _draft(image, limits.draft_px)
        image.load()
        # Again, as the size is certain only now.
        check_size(image.height, image.width, limits)
        return _as_rgb(_upright(image))


@contextmanager
def _decoding(content: bytes, limits: ImageLimits) -> Iterator[None]:
    """Turn Pillow's exceptions in the block into Refusals, except MemoryError."""
    try:
        yield
    except (MemoryError, Refusal):
        raise
    except UnidentifiedImageError:
        if heif.is_heic(content):
            raise Refusal(
                FailureCode.IMAGE_BROKEN, "The image cannot be decoded: it is a HEIC photo, cut or damaged."
            ) from None
        raise Refusal(
            FailureCode.NOT_AN_IMAGE, f"The file is no image of a known format ({', '.join(FORMATS)})."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE,
            f"The image has far more than {limits.max_px} pixels (CAPTIONMILL_IMAGE_MAX_PX of the worker).",
        ) from None
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise whatever a mutated file leads to
        if isinstance(error, OSError) and str(error).startswith(OUT_OF_MEMORY):
            raise MemoryError from None
        raise Refusal(FailureCode.IMAGE_BROKEN, f"The image cannot be decoded: {_reason(error)}.") from None


def _reason(error: Exception) -> str:
    """The error's text in one printable line of limited length, as some plugins quote the file."""
    text = str(error) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:SHOWN_CHARACTERS]


def _check_scans(content: bytes) -> None:
    scans = scan_count(content)
    if scans > MAX_SCANS:
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE, f"The image is a JPEG of {scans} scans; {MAX_SCANS} are allowed."
        )


def _ended(content: bytes, limits: ImageLimits) -> Image.Image:
    """A JPEG without its end marker that has all of its pixels. Raises Refusal where some are missing."""
    whole = content.rstrip(b"\xff")
    image, other = (Image.open(io.BytesIO(whole + more + END), formats=JPEG[:1]) for more in (b"", FILLER))
    for candidate in (image, other):
        _draft(candidate, limits.draft_px)
    # Where pixels are missing, the decoder makes some of the filler, and the two images differ.
    if not has_every_scan(content) or image.tobytes() != other.tobytes():
        raise Refusal(FailureCode.IMAGE_BROKEN, "The image is a JPEG whose file ends before its pixels do.")
    return image


def _draft(image: Image.Image, draft_px: int) -> None:
    """Have a large JPEG decoded at a fraction of its size, in a fraction of the time."""
    width, height = image.size
    if draft_px and image.format in JPEG:
        share = (draft_px / (height * width)) ** 0.5
        if share < 1:
            image.draft(None, (math.ceil(width * share), math.ceil(height * share)))


def _upright(image: Image.Image) -> Image.Image:
    # Broken EXIF is no reason to refuse a good picture, and the value need not be a number.
    orientation = attempt(lambda: image.getexif().get(ExifTags.Base.Orientation))
    if isinstance(orientation, MemoryError):
        raise orientation
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def check_size(height: int, width: int, limits: ImageLimits) -> None:
    """Raise Refusal if the image is larger or narrower than allowed."""
    shape = f"The image is {height} x {width} pixels (height x width)"
    if height < 1 or width < 1:
        raise Refusal(FailureCode.IMAGE_BROKEN, f"{shape}.")
    if height * width > limits.max_px:
        allowed = f"{limits.max_px} in all are allowed (CAPTIONMILL_IMAGE_MAX_PX of the worker)"
        raise Refusal(FailureCode.IMAGE_TOO_LARGE, f"{shape}; {allowed}.")
    if max(height, width) > limits.max_side_px:
        allowed = f"{limits.max_side_px} a side are allowed (CAPTIONMILL_IMAGE_MAX_SIDE_PX of the worker)"
        raise Refusal(FailureCode.IMAGE_TOO_LARGE, f"{shape}; {allowed}.")
    if max(height, width) > limits.max_aspect * min(height, width):
        raise Refusal(
            FailureCode.IMAGE_ASPECT,
            f"{shape}; one side may be {limits.max_aspect:g} times the other at most "
            "(CAPTIONMILL_IMAGE_MAX_ASPECT of the worker).",
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_GREY_MODES:
        grey = np.asarray(image)
        # Pillow's mode "I" has 32 bits, but most files that lead to it have 16.
        if grey.min() < 0 or grey.max() > 65535:
            raise Refusal(
                FailureCode.IMAGE_BROKEN, "The image has 32-bit grey pixels, whose white is unknown."
            )
        image = Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise Refusal(
            FailureCode.IMAGE_BROKEN, "The image has floating-point pixels, whose white is unknown."
        )
    if image.has_transparency_data:
        # Converting to the mode that it has would copy it.
        with_alpha = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", with_alpha.size, (255, 255, 255))
        image.paste(with_alpha, mask=with_alpha)
    return image if image.mode == "RGB" else image.convert("RGB")
