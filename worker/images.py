"""Reads an image file that strangers may have made, within limits; knows no model and no job."""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from contract.failure import FailureCode, Refusal

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
WIDE_GREY_MODES: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes for 16-bit grey; it converts them to 8 bits by clipping, so they are scaled first."""

# For the process, not by catch_warnings around each call: that one is not safe among threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """What a file may ask of this process; larger is refused with IMAGE_TOO_LARGE."""

    max_bytes: int
    max_px: int
    max_side_px: int
    max_aspect: float


def shown(path: Path) -> str:
    """The path for a sentence: bytes that are not UTF-8 are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_bytes(path: Path, roots: tuple[Path, ...], max_bytes: int) -> bytes:
    """The content of a regular file below one of `roots`.

    `path` is absolute or relative to one of `roots`, which are resolved folders. Raises Refusal.
    """
    with _reading(path, roots) as descriptor, open(descriptor, "rb", closefd=False) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE,
            f"{shown(path)} has more than the {max_bytes} bytes that are allowed.",
        )
    if not content:
        raise Refusal(FailureCode.NOT_AN_IMAGE, f"{shown(path)} is empty.")
    return content


def read_member(
    path: Path, roots: tuple[Path, ...], max_bytes: int, offset: int, size_bytes: int, name: str
) -> bytes:
    """The `size_bytes` from `offset` on of a shard, which is a file as in read_bytes(). Raises Refusal."""
    member = f"{shown(Path(name))} in {shown(path)}"
    if size_bytes > max_bytes:
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE, f"{member} has more than the {max_bytes} bytes that are allowed."
        )
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
    """As _opened(), and what the system refuses within it is a Refusal."""
    try:
        with _opened(path, roots) as descriptor:
            yield descriptor
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal(FailureCode.IMAGE_NOT_FOUND, f"There is no file {shown(path)}.") from None
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise Refusal(FailureCode.IMAGE_UNREADABLE, f"{shown(path)} cannot be read: {reason}.") from None


@contextmanager
def _opened(path: Path, roots: tuple[Path, ...]) -> Iterator[int]:
    """A descriptor of the regular file, closed at the end."""
    real = _resolved(path, roots)
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # The path may have been exchanged since it was resolved; the descriptor cannot be.
        opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not any(opened.is_relative_to(root) for root in roots):
            raise _outside(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refusal(FailureCode.IMAGE_NOT_ALLOWED, f"{shown(path)} is not a regular file.")
        yield descriptor
    finally:
        os.close(descriptor)


def _resolved(path: Path, roots: tuple[Path, ...]) -> Path:
    """The real path below one of the roots; a relative one is looked for in each root in turn."""
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
    return Refusal(FailureCode.IMAGE_NOT_ALLOWED, f"{shown(path)} is outside the worker's image roots.")


def decode_image(content: bytes, limits: ImageLimits) -> Image.Image:
    """The first frame in mode RGB, upright as its EXIF says, transparency on white. Raises Refusal."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refusal(
            FailureCode.NOT_AN_IMAGE, f"The file is no image of a known format ({', '.join(FORMATS)})."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE, f"The image has far more than the {limits.max_px} pixels allowed."
        ) from None
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise whatever a mutated header leads to
        raise _broken(error) from None
    _check_size(image, limits)
    try:
        image.seek(0)
        image.load()
        return _as_rgb(ImageOps.exif_transpose(image))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - as above: a truncated file ends in any of a dozen types
        raise _broken(error) from None


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    shape = f"The image is {height} x {width} pixels (height x width)"
    if height < 1 or width < 1:
        raise Refusal(FailureCode.IMAGE_BROKEN, f"{shape}.")
    if height * width > limits.max_px:
        raise Refusal(FailureCode.IMAGE_TOO_LARGE, f"{shape}; {limits.max_px} in all are allowed.")
    if max(height, width) > limits.max_side_px:
        raise Refusal(FailureCode.IMAGE_TOO_LARGE, f"{shape}; {limits.max_side_px} a side are allowed.")
    if max(height, width) > limits.max_aspect * min(height, width):
        raise Refusal(
            FailureCode.IMAGE_TOO_LARGE, f"{shape}; one side may be {limits.max_aspect:g} times the other."
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_GREY_MODES:
        grey = np.asarray(image, dtype=np.int64)
        # Pillow's mode "I" has 32 bits, but the files that lead to it mostly hold 16.
        if grey.min() < 0 or grey.max() > 65535:
            raise Refusal(
                FailureCode.IMAGE_BROKEN, "The image has 32-bit grey pixels, whose white is unknown."
            )
        image = Image.fromarray((grey // 257).astype(np.uint8))
    elif image.mode == "F":
        raise Refusal(
            FailureCode.IMAGE_BROKEN, "The image has floating-point pixels, whose white is unknown."
        )
    if "A" in image.getbands() or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, with_alpha)
    return image.convert("RGB")


def _broken(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return Refusal(
        FailureCode.IMAGE_BROKEN, f"The image cannot be decoded: {str(error) or type(error).__name__}."
    )
