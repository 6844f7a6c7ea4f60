"""Resolves a row's image for a job: digest, reference and bytes to ship; knows no job."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from contract.failure import Failure, FailureCode
from contract.job import (
    INLINE_MAX_BYTES,
    ImageInline,
    ImageMember,
    ImagePath,
    ImageReference,
    ImageStored,
    ImageUrl,
)
from contract.quoting import quoted
from producer.ledger import FileDigest
from producer.rows import Embedded, RowImage
from producer.sources import shown

READ_BYTES: Final = 1 << 20
SHIPPED_MAX_BYTES: Final = 50_000_000
"""Largest image that is sent, the workers' default bound."""


@dataclass(frozen=True)
class Resolved:
    """An image as a job refers to it."""

    digest: bytes
    """Digest of the image's bytes, or of its name if the producer cannot read it."""
    reference: ImageReference
    content: bytes | None = None
    """Bytes that must be in the store before the job is sent; the reference is then an ImageStored."""
    refusal: Failure | None = None
    """Why the image is not sent; its questions end in this failure."""


class Resolver:
    """Resolves images. Thread-safe: digests of files are passed in and out."""

    def __init__(
        self, read_embedded: Callable[[int], bytes], *, ship: bool, roots: Sequence[Path] = ()
    ) -> None:
        """`ship` sends files to workers that do not see them; embedded images are always sent.

        Only files below `roots` are sent, so that no link in a folder sends a file from elsewhere.
        """
        self._read_embedded = read_embedded
        self._ship = ship
        self._roots = tuple(Path(os.path.realpath(root)) for root in roots)

    def place(self, image: RowImage) -> bytes | None:
        """The name for the digest of an image in a file; None for other images."""
        if isinstance(image, ImageMember):
            return os.fsencode(image.to_path()) + b"\0%d+%d" % (image.offset, image.size_bytes)
        return os.fsencode(image.to_path()) if isinstance(image, ImagePath) else None

    def resolve(self, image: RowImage, known: FileDigest | None) -> tuple[Resolved, FileDigest | None]:
        """The image, and the digest to keep for a readable file. Raises nothing for an unreadable one."""
        if isinstance(image, ImageUrl):
            return Resolved(_digest(b"url", image.url.encode()), image), None
        if isinstance(image, Embedded):
            content = self._read_embedded(image.place)
            if len(content) > SHIPPED_MAX_BYTES:
                return _too_large(image), None
            return shipped(content), None
        try:
            return self._file(image, known)
        except OSError:
            # The worker will say what is wrong, or can read the file although this machine cannot.
            place = self.place(image)
            assert place is not None
            return Resolved(_digest(b"unread", place), image), None

    def content(self, image: RowImage) -> bytes | None:
        """The image's bytes; None for a URL and for a file that cannot be read."""
        if isinstance(image, ImageUrl):
            return None
        if isinstance(image, Embedded):
            return self._read_embedded(image.place)
        try:
            with open(image.to_path(), "rb", opener=_open_regular) as file:
                status = os.fstat(file.fileno())
                size = _seek(file, image, status)
                return None if size > SHIPPED_MAX_BYTES else file.read(size)
        except OSError:
            return None

    def _is_below_roots(self, descriptor: int) -> bool:
        # Checks the open file, as another file may take its path meanwhile.
        opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        return any(opened.is_relative_to(root) for root in self._roots)

    def _outside(self, image: ImagePath) -> Resolved:
        path = image.to_path()
        places = " and ".join(shown(root) for root in self._roots) or "the source"
        message = (
            f"{quoted(path)} leads out of {places}, and --ship sends nothing from elsewhere: put the file "
            "itself there, or name its folder as the source or with --image-root."
        )
        refusal = Failure(code=FailureCode.IMAGE_NOT_ALLOWED, message=message)
        return Resolved(_digest(b"outside", os.fsencode(path)), image, refusal=refusal)

    def _file(
        self, image: ImagePath | ImageMember, known: FileDigest | None
    ) -> tuple[Resolved, FileDigest | None]:
        with open(image.to_path(), "rb", opener=_open_regular) as file:
            status = os.fstat(file.fileno())
            size = _seek(file, image, status)
            if self._ship and isinstance(image, ImagePath) and not self._is_below_roots(file.fileno()):
                return self._outside(image), None
            fresh = known is not None and known[:2] == (status.st_size, status.st_mtime_ns)
            if known is not None and fresh and not self._ship:
                return Resolved(known.digest, image), known
            if self._ship and size <= SHIPPED_MAX_BYTES:
                content = file.read(size)
                result = shipped(content)
            else:
                result = Resolved(_digest_of(file, size), image)
        return result, FileDigest(status.st_size, status.st_mtime_ns, result.digest)


def digest_of(images: Sequence[Resolved]) -> bytes | None:
    """The digest of a row's images in their order; None without images."""
    if len(images) < 2:
        return images[0].digest if images else None
    return _digest(b"several", b"".join(image.digest for image in images))


def contents_of(images: Sequence[Resolved]) -> dict[str, bytes]:
    """Hash → bytes, of images that must be in the store."""
    return {
        image.reference.sha256: image.content
        for image in images
        if image.content is not None and isinstance(image.reference, ImageStored)
    }


def shipped(content: bytes) -> Resolved:
    """An image that is sent as bytes: within the job if it is small, else through the store."""
    digest = hashlib.sha256(content).digest()
    if len(content) <= INLINE_MAX_BYTES:
        return Resolved(digest, ImageInline.of(content))
    return Resolved(digest, ImageStored(sha256=digest.hex()), content)


def _too_large(image: Embedded) -> Resolved:
    message = f"The image within the source has more than {SHIPPED_MAX_BYTES} bytes."
    refusal = Failure(code=FailureCode.IMAGE_TOO_LARGE, message=message)
    nowhere = ImagePath(path=f"within the source, at {image.place}")
    return Resolved(_digest(b"large", b"%d" % image.place), nowhere, refusal=refusal)


def _open_regular(path: str, flags: int) -> int:
    """An opener that does not wait for the writer of a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK)


def _seek(file: BinaryIO, image: ImagePath | ImageMember, status: os.stat_result) -> int:
    """Go to the image's first byte. Returns its size in bytes. Raises OSError if the file is not regular."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError("no regular file")
    if isinstance(image, ImagePath):
        return status.st_size
    file.seek(image.offset)
    return image.size_bytes


def _digest_of(file: BinaryIO, size: int) -> bytes:
    digest = hashlib.sha256()
    while size > 0 and (piece := file.read(min(size, READ_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.digest()


def _digest(kind: bytes, name: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + name).digest()
