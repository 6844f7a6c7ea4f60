"""Gets the bytes of a job's image from where its reference points; knows no format of images."""

import hashlib
import time
from pathlib import Path
from typing import Final, Protocol

from contract.failure import FailureCode, Refusal
from contract.job import ImageInline, ImageMember, ImagePath, ImageStored, ImageUrl, Job
from worker.images.download import Downloads, UrlRules, shown_url
from worker.images.image_file import check_bytes, read_bytes, read_member
from worker.images.remote import RemoteFiles

WEB: Final = ("http", "https")


class StoredImages(Protocol):
    """Has the images that the producer has stored: worker.delivery.results' ResultStore."""

    def image(self, run: str, sha256: str, max_bytes: int) -> bytes:
        """The first `max_bytes` + 1 bytes of an image; empty if there is none."""
        ...


class ImageFetch:
    """One per process, shared by its threads."""

    def __init__(
        self, roots: tuple[Path, ...], max_bytes: int, stored: StoredImages, rules: UrlRules | None = None
    ) -> None:
        """Files are read below `roots`, which are resolved folders. Raises RemoteSchemeError."""
        rules = rules or UrlRules()
        self._roots = roots
        self._max_bytes = max_bytes
        self._stored = stored
        self._schemes = rules.schemes
        self._download = Downloads(rules, max_bytes)
        self._remote = {
            scheme: RemoteFiles(scheme, max_bytes) for scheme in rules.schemes if scheme not in WEB
        }

    def __call__(self, job: Job) -> bytes:
        """The image file of a job that has one. Raises Refusal, and what the store raises."""
        match job.image:
            case ImagePath():
                return read_bytes(job.image.to_path(), self._roots, self._max_bytes)
            case ImageMember(offset=offset, size_bytes=size_bytes, name=name):
                path = job.image.to_path()
                return read_member(path, self._roots, self._max_bytes, offset, size_bytes, name)
            case ImageInline():
                return self._inline(job.image)
            case ImageStored(sha256=sha256):
                return self._from_store(job.run, sha256)
            case ImageUrl(url=url):
                return self._from_url(url, job.deadline)
            case None:
                raise ValueError("a job without image has none to fetch")

    def close(self) -> None:
        self._download.close()

    def _inline(self, image: ImageInline) -> bytes:
        content = image.content()
        check_bytes("The job's image", len(content), self._max_bytes)
        return content

    def _from_store(self, run: str, sha256: str) -> bytes:
        content = self._stored.image(run, sha256, self._max_bytes)
        if not content:
            raise Refusal(FailureCode.IMAGE_NOT_FOUND, f"The image {sha256} is no longer in the store.")
        check_bytes(f"The image {sha256}", len(content), self._max_bytes)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refusal(
                FailureCode.IMAGE_UNREADABLE, f"What the store holds as the image {sha256} has another hash."
            )
        return content

    def _from_url(self, url: str, deadline: float | None) -> bytes:
        """`deadline` is Unix time in seconds."""
        scheme = url.partition("://")[0].lower()
        if scheme not in self._schemes:
            allowed = ", ".join(self._schemes) or "none"
            raise Refusal(
                FailureCode.URL_NOT_ALLOWED,
                f"{shown_url(url)} is not allowed: of URL schemes this worker fetches {allowed}.",
            )
        if scheme not in WEB:
            return self._remote[scheme](url)
        until = None if deadline is None else time.monotonic() + deadline - time.time()
        return self._download(url, until)
