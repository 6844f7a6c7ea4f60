"""Reads an image from a file system that fsspec knows (s3, gs, …); knows no job and no HTTP."""

import importlib
from typing import Any, Final

from contract.failure import FailureCode, Refusal
from contract.installing import install_line
from worker.errors import StartupError, attempt
from worker.images.download import shown_url
from worker.images.image_file import check_bytes

LOCAL_SCHEMES: Final = frozenset({"file", "local", "dir", "reference", "zip", "tar", "libarchive", "generic"})
"""Schemes of files on this machine, which are read only by path below the image roots."""


class RemoteSchemeError(StartupError):
    """Images of this URL scheme cannot be offered."""


class RemoteFiles:
    """Files of one scheme; its library finds the credentials."""

    def __init__(self, scheme: str, max_bytes: int) -> None:
        """Raises RemoteSchemeError."""
        if scheme in LOCAL_SCHEMES or "cache" in scheme:
            raise RemoteSchemeError(f"{scheme}:// is not for images: set CAPTIONMILL_IMAGE_ROOTS for files.")
        try:
            # By name, as fsspec has no types.
            fsspec: Any = importlib.import_module("fsspec")
        except ImportError:
            raise RemoteSchemeError(f"{scheme}:// needs fsspec: {install_line('remote')}.") from None
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as missing:
            raise RemoteSchemeError(f"{scheme}:// needs more packages: {missing}") from None
        except ValueError:
            raise RemoteSchemeError(f"{scheme}:// is not a scheme that fsspec knows.") from None
        self._filesystem: Any = fsspec.filesystem(scheme)
        self._max_bytes = max_bytes

    def __call__(self, url: str) -> bytes:
        """The content behind `url`. Raises Refusal."""
        shown = shown_url(url)
        content = attempt(lambda: self._read(url))
        if isinstance(content, FileNotFoundError):
            raise Refusal(FailureCode.IMAGE_NOT_FOUND, f"There is no image at {shown}.")
        if isinstance(content, Exception):
            # Each file system has its own errors. Only the name is shown, as some texts quote the response.
            name = type(content).__name__
            raise Refusal(FailureCode.DOWNLOAD_FAILED, f"{shown} cannot be downloaded: {name}.")
        check_bytes(shown, len(content), self._max_bytes)
        return content

    def _read(self, url: str) -> bytes:
        """At most one byte more than is allowed."""
        with self._filesystem.open(url, "rb") as file:
            content: bytes = file.read(self._max_bytes + 1)
        return content
