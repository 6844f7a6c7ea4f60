"""Recognises images by their first bytes, whatever their names; decodes nothing."""

import os
import stat
from typing import Final

from producer.sources.heic import reads_heic

HEAD_BYTES: Final = 32
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_AVIF: Final = (b"avif", b"avis")
_HEIC: Final = (b"heic", b"heix", b"mif1")


def is_image(head: bytes) -> bool:
    """Whether a file's first bytes are those of an image that workers decode."""
    if head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return True
    if head[:2] == b"BM":
        return (
            len(head) >= 18
            and head[6:10] == bytes(4)
            and head[14:18] in (b"\x0c\0\0\0", b"(\0\0\0", b"l\0\0\0", b"|\0\0\0")
        )
    return head[4:8] == b"ftyp" and (head[8:12] in _AVIF or (reads_heic() and head[8:12] in _HEIC))


def looks_like_image(path: str) -> bool:
    """The same for a local file; False if it cannot be read or is not regular."""
    try:
        # Does not wait for the writer of a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and is_image(os.read(descriptor, HEAD_BYTES))
    except OSError:
        return False
    finally:
        os.close(descriptor)
