"""Lists image files of a folder or a pattern as rows; opens images only to sniff them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from contract.job import ImagePath, ImageUrl
from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import PassedOver, count_below, image_suffixes, is_remote, joined, matches
from producer.sources.image_sniff import looks_like_image
from producer.sources.names import on_disk
from producer.sources.refusal import NoImagesError, shown
from producer.sources.skipped import CAPTION_SUFFIXES, Captions, Skipped
from producer.sources.source import PlainSource

MOST_BELOW: Final = 1_000_000
"""Number of names in subfolders that are counted for a message, which takes some seconds."""
MOST_SNIFFED: Final = 64
"""Number of files with other suffixes that are opened for a message."""


class ImageFiles(PlainSource):
    """Image files below a folder, in order of name, a folder's files before those of its subfolders.

    Hidden names, links to folders and files with other suffixes are skipped. `skipped` counts them after the
    last row, without captions of images.
    """

    def __init__(
        self,
        source: str,
        root: str,
        pattern: tuple[str, ...],
        *,
        tells_of_subfolders: bool,
        sniff: bool = False,
    ) -> None:
        """`sniff` opens files with other suffixes, to see whether they are images."""
        self._source = source
        self.root = root if is_remote(root) else str(Path(root).resolve())
        """The folder, with links resolved."""
        self.images_folder = None if is_remote(root) else Path(self.root)
        self._pattern = pattern
        self._tells_of_subfolders = tells_of_subfolders and not is_remote(root)
        self._sniff = sniff
        self.skipped = Skipped()
        self.read_elsewhere: frozenset[str] = frozenset()
        """Folders that are sources of their own; they are not counted as skipped."""

    @classmethod
    def of_folder(cls, folder: str, *, recursive: bool, sniff: bool = False) -> "ImageFiles":
        pattern = ("**", "*") if recursive else ("*",)
        return cls(folder, folder, pattern, tells_of_subfolders=not recursive, sniff=sniff)

    def rows(self, _: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        looked = 0
        suffixes = image_suffixes()
        passed, skipped = PassedOver(), Skipped()
        captions = Captions(skipped)
        for name in matches(self.root, self._pattern, passed):
            folder, base = os.path.split(name)
            stem, suffix = os.path.splitext(base)
            if suffix.lower() in CAPTION_SUFFIXES:
                captions.note_text(folder, stem, suffix)
                continue
            place = joined(self.root, name)
            if suffix.lower() not in suffixes:
                looked += 1
                is_image = (self._sniff or looked <= MOST_SNIFFED) and _is_image(place)
                if not (self._sniff and is_image):
                    skipped.note_file(suffix)
                    skipped.disguised += is_image
                    continue
            captions.note_image(folder, base)
            empty = False
            image = ImageUrl(url=place) if is_remote(self.root) else ImagePath.of(place)
            yield Row(id=name, name=name, image=image)
        captions.end()
        skipped.hidden, skipped.links, skipped.system = passed.hidden, passed.links, passed.system
        if self._tells_of_subfolders:
            skipped.links += passed.other_links
            skipped.in_subfolders, complete = count_below(
                [joined(self.root, folder) for folder in passed.folders],
                lambda name: os.path.splitext(name)[1].lower() in suffixes,
                self.read_elsewhere,
                MOST_BELOW,
            )
            skipped.more_below = not complete
        self.skipped = skipped
        if empty:
            of_kinds = ", ".join(sorted(suffixes))
            raise NoImagesError(
                f"There are no images ({of_kinds}) in {shown(self._source)}.{skipped.instead()}"
            )

    def image(self, name: str) -> Row | None:
        """The row of a file of this name. It need not exist: the worker says so."""
        if is_remote(self.root):
            return Row(id=name, name=name, image=ImageUrl(url=joined(self.root, name)))
        place = on_disk(self.root, name)
        name = os.path.relpath(place, self.root)
        return Row(id=name, name=name, image=ImagePath.of(place))


def _is_image(place: str) -> bool:
    """Whether a local file is an image by its first bytes. False for a remote file, to save a request."""
    return not is_remote(place) and looks_like_image(place)
