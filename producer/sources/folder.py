"""Rows of the image files in a folder, or of those that match a pattern; opens no image."""

import os
from collections.abc import Iterator
from pathlib import Path

from contract.job import ImagePath, ImageUrl
from producer.rows import Row
from producer.sources.files import IMAGE_SUFFIXES, is_remote, joined, matches, split_pattern
from producer.sources.refusal import SourceError, shown


class ImageFiles:
    """Image files below a folder, in order of name, those of a folder before those of its folders.

    Hidden names and links to folders are passed over, and so are files of other names than images have.
    """

    columns: tuple[str, ...] | None = ()

    def __init__(self, source: str, root: str, pattern: tuple[str, ...], empty: str) -> None:
        """`empty` ends the sentence that says there are no images."""
        self._source = source
        self._root = root if is_remote(root) else str(Path(root).resolve())
        self._pattern = pattern
        self._empty = empty

    @classmethod
    def of_folder(cls, folder: str, *, recursive: bool) -> "ImageFiles":
        pattern = ("**", "*") if recursive else ("*",)
        return cls(
            folder, folder, pattern, "." if recursive else "; --recursive also looks into its folders."
        )

    @classmethod
    def of_pattern(cls, source: str) -> "ImageFiles":
        root, pattern = split_pattern(source)
        return cls(source, root, pattern, ".")

    def rows(self) -> Iterator[Row]:
        empty = True
        for name in matches(self._root, self._pattern):
            if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
                continue
            empty = False
            place = joined(self._root, name)
            image = ImageUrl(url=place) if is_remote(self._root) else ImagePath.of(place)
            yield Row(id=name, name=name, image=image)
        if empty:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"There are no images ({suffixes}) in {shown(self._source)}{self._empty}")

    def read(self, place: int) -> bytes:
        raise AssertionError(f"a folder embeds no image, at {place} or elsewhere")
