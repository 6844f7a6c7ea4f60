"""Collects the folders of a source's image files, a bounded number of them; opens no image."""

import os
from pathlib import Path
from typing import Final

from contract.job import ImageMember, ImagePath
from producer.rows import RowImage

MOST: Final = 256
"""Largest number of folders that are kept."""


class ImageFolders:
    """A set of folders. If they become too many, their parents take their place."""

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def add(self, image: RowImage | None) -> None:
        """Add the folder of an image. Images that are not files are ignored."""
        if not isinstance(image, ImagePath | ImageMember):
            return
        self._folders.add(os.path.dirname(image.to_path()))
        if len(self._folders) > MOST:
            self._folders = self._outermost()
            while len(self._folders) > MOST // 2:
                self._folders = {os.path.dirname(folder) for folder in self._folders}
                self._folders = self._outermost()

    def _outermost(self) -> set[str]:
        """The folders that are not below another one of them."""
        kept: list[str] = []
        for folder in sorted(self._folders, key=lambda one: one.split("/")):
            if not kept or not _within(folder, kept[-1]):
                kept.append(folder)
        return set(kept)

    def roots(self) -> list[str]:
        """Existing folders, none below another.

        The nearest existing parent takes the place of a missing folder, unless that is the root.
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
