"""The folders that a source's image files lie in, a bounded number of them; opens no image."""

import os
from pathlib import Path
from typing import Final

from contract.job import ImageMember, ImagePath
from producer.rows import RowImage

MOST: Final = 256


class ImageFolders:
    """Collects folders. Where there are too many, their parents stand for them."""

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def add(self, image: RowImage | None) -> None:
        """Images that are no files are passed over."""
        if not isinstance(image, ImagePath | ImageMember):
            return
        self._folders.add(os.path.dirname(image.to_path()))
        if len(self._folders) > MOST:
            self._folders = self._outermost()
            while len(self._folders) > MOST // 2:
                self._folders = {os.path.dirname(folder) for folder in self._folders}
                self._folders = self._outermost()

    def _outermost(self) -> set[str]:
        """Without the folders that lie in another one of them."""
        kept: list[str] = []
        for folder in sorted(self._folders, key=lambda one: one.split("/")):
            if not kept or not _within(folder, kept[-1]):
                kept.append(folder)
        return set(kept)

    def roots(self) -> list[str]:
        """The folders, none within another, and none that is not there.

        A folder that is missing is stood for by the nearest one above it, but never by the whole disk.
        """
        found = {str(_nearest(Path(folder))) for folder in self._outermost()}
        self._folders = found - {"/"}
        return sorted(self._outermost())


def _within(folder: str, outer: str) -> bool:
    return folder == outer or folder.startswith(outer.rstrip("/") + "/")


def _nearest(folder: Path) -> Path:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
