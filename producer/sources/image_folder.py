"""Reads rows of an ImageFolder: images with a metadata file, or in folders of splits; opens no image."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from contract.counting import counted
from contract.job import ImagePath
from contract.quoting import quoted
from producer.rows import Embedded, NamedImage, Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import Entry, entries, joined
from producer.sources.folder import ImageFiles
from producer.sources.refusal import NoImagesError, SourceError, listed, shown
from producer.sources.source import PlainSource, Source
from producer.sources.zip_images import ZipImages

METADATA: Final = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
SPLIT_FOLDERS: Final = frozenset(
    {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}
)
_SEVERAL: Final = "a row with several images has them in a folder, and not in an archive: unpack it"


class Metadata(NamedTuple):
    """A metadata file and its rows."""

    file: str
    folder: str
    """Folder of its relative names, below the source's: empty, or with a slash at the end."""
    source: Source


Images = ImageFiles | ZipImages
"""Image files of a folder or an archive, named by their paths in it."""


class ImageFolder(PlainSource):
    """The metadata's rows, with their columns; then the other images.

    Ids are paths below the folder, unless the metadata has ids of its own or names an image twice. An image
    in a class folder of a split has the column `label`.
    """

    columns = None

    def __init__(
        self,
        name: str,
        images: Images,
        metadata: Sequence[Metadata],
        *,
        labels: bool = False,
        split: str | None = None,
        alone: str = "",
    ) -> None:
        """`labels`: folders in the splits' folders are classes. `split`: the only split that is read.

        `alone`: a clause on the options that read the images without metadata, if there are any.
        """
        self._name = name
        self._images = images
        self._metadata = metadata
        self._labels = labels
        self._alone = alone
        self._below = "" if split is None else f"{split}/"
        self.images_folder = images.images_folder

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        bad = bad or BadRows()
        named: set[str] = set()
        ids: set[str] = set()
        yield from self._described(bad, named, ids)
        others = 0
        try:
            for row in self._images.rows(bad):
                if row.id not in named:
                    others += 1
                    yield self._labelled(row)
        except NoImagesError:
            if not ids:
                raise
        self.skipped = self._images.skipped
        self._tell(len(named), others)

    def read(self, place: int) -> bytes:
        return self._images.read(place)

    def _described(self, bad: BadRows, named: set[str], ids: set[str]) -> Iterator[Row]:
        """The metadata's rows. Adds their images to `named`, and their ids to `ids`."""
        for part in self._metadata:
            for row in part.source.rows(bad):
                if isinstance(row.image, ImagePath) and row.name is not None:
                    image = self._image(part, row.name)
                    if image is None:
                        name = os.path.normpath(part.folder + row.name)
                        yield from bad.instead(name, row.where, f"there is no image {quoted(name)}")
                        continue
                    if not image.id.startswith(self._below):
                        continue  # another split's image
                    named.add(image.id)
                    row = replace(row, name=image.id, image=image.image, refusal=image.refusal)
                    if row.more_images and self.images_folder is None:
                        yield from bad.instead(row.id, row.where, _SEVERAL)
                        continue
                    named.update(_below(self.images_folder, row.more_images))
                elif isinstance(row.image, Embedded):
                    yield from bad.instead(row.id, row.where, "its image is in the metadata, and not a file")
                    continue
                row_id = part.folder + row.id if row.has_own_id else row.name or row.id
                if not row.has_own_id and row_id in ids:
                    row_id = f"{row_id} ({row.where.rpartition(', ')[2]})"
                ids.add(row_id)
                yield replace(row, id=row_id)

    def _image(self, part: Metadata, name: str) -> Row | None:
        """The row of an image that a metadata file names; None if there is none."""
        image = self._images.image(os.path.normpath(part.folder + name))
        if part.folder and (image is None or not _is_there(image)):
            # Some metadata has names relative to the whole data set's folder.
            whole = self._images.image(os.path.normpath(name))
            image = whole if whole is not None and _is_there(whole) else image
        return image

    def _labelled(self, row: Row) -> Row:
        folders = row.id.split("/")[1:-1] if self._labels else []
        return replace(row, columns={"label": folders[-1]}) if folders else row

    def _tell(self, named: int, others: int) -> None:
        files = [shown(joined(self._name, part.file)) for part in self._metadata]
        self.notes = tuple(note for part in self._metadata for note in part.source.notes)
        if files:
            self.skipped.files.subtract(os.path.splitext(part.file)[1] for part in self._metadata)
            self.skipped.files = +self.skipped.files
            beside = f"; {counted(others, 'image')} beside have no line there" if others else ""
            alone = f" ({self._alone})" if self._alone else ""
            self.notes += (
                f"{shown(self._name)} is read as an ImageFolder, with the columns of {', '.join(files)} for "
                f"{counted(named, 'image')}{beside}{alone}.",
            )
        elif self._labels:
            self.notes += (
                f"{shown(self._name)} is read as an ImageFolder: folders within those of its splits are the "
                'column "label".',
            )


def _below(folder: Path | None, images: Sequence[NamedImage]) -> set[str]:
    """Paths of image files, relative to the folder."""
    paths = [image.to_path() for image in images if isinstance(image, ImagePath)]
    return {os.path.relpath(path, folder) for path in paths}


def _is_there(row: Row) -> bool:
    return not isinstance(row.image, ImagePath) or row.image.to_path().exists()


def metadata_files(folder: str, unread: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(path below `folder`, its folder with a slash at the end) of a folder's or its splits' metadata."""
    here = entries(folder)
    found = _metadata_of(folder, "", here, unread)
    if found:
        return found
    for entry in here:
        if entry.is_folder and entry.name.lower() in SPLIT_FOLDERS:
            below = joined(folder, entry.name)
            found += _metadata_of(folder, f"{entry.name}/", entries(below), unread)
    return found


def _metadata_of(
    folder: str, below: str, there: Sequence[Entry], unread: Sequence[str]
) -> list[tuple[str, str]]:
    names = {entry.name for entry in there if not entry.is_folder}
    files = [below + name for name in METADATA if name in names]
    files = [file for file in files if joined(folder, file) not in unread]
    if len(files) > 1:
        raise SourceError(
            f"{shown(folder)} has {listed(files)}, of which `datasets` reads one; leave one there."
        )
    return [(file, below) for file in files]


def split_folders(folder: str) -> list[str]:
    """Names of subfolders that are called like splits."""
    return [one.name for one in entries(folder) if one.is_folder and one.name.lower() in SPLIT_FOLDERS]
