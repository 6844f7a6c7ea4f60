"""Reads several sources as one, with ids that distinguish the sources; knows none of their forms."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from contract.job import ImagePath, ImageUrl
from producer.rows import Embedded, Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import is_remote, scheme_of, shared_folder, split_pattern
from producer.sources.folder import ImageFiles
from producer.sources.recognise import (
    Known,
    given,
    has_use,
    is_stranger,
    open_known,
    open_source,
    option,
    place_of,
    recognise,
    without_unused,
)
from producer.sources.refusal import SourceError, shown
from producer.sources.skipped import Skipped
from producer.sources.source import Source, SourceOptions

MOST_SHOWN: Final = 3
IN_QUOTES: Final = (
    "leave such files out, or put the pattern in quotes, as in 'photos/*': then only its images are read."
)


def open_sources(sources: Sequence[tuple[str, SourceOptions]]) -> Source:
    """Open one source as `open_source` does, or several as one; a source that is named twice counts once.

    Raises SourceError for what cannot be opened, and for options that have no effect for any of the sources.
    """
    by_place: dict[str, SourceOptions] = {}
    for source, options in sources:
        by_place.setdefault(place_of(source), options)
    asked = list(by_place.items())
    if len(asked) == 1:
        return open_source(*asked[0])
    if not asked:
        raise SourceError("No source is named.")
    _refuse_strangers(asked)
    known = [(recognise(place, options), options) for place, options in asked]
    _refuse_unused(known)
    shared = _shared_folders([_folder_of(one) for one, _ in known])
    return Several([_Part.of(one, options, shared[scheme_of(one.place)]) for one, options in known])


def shown_sources(sources: Sequence[str]) -> str:
    """The first sources for a sentence, and the number of the others."""
    if len(sources) <= MOST_SHOWN:
        return ", ".join(map(shown, sources))
    first = ", ".join(map(shown, sources[: MOST_SHOWN - 1]))
    return f"{first} and {len(sources) - MOST_SHOWN + 1} more"


def _shared_folders(folders: Sequence[str]) -> dict[str | None, str]:
    """Scheme → shared folder. With several schemes, URLs share none, so that their ids are complete."""
    by_scheme: dict[str | None, list[str]] = {}
    for folder in folders:
        by_scheme.setdefault(scheme_of(folder), []).append(folder)
    return {
        scheme: "" if scheme is not None and len(by_scheme) > 1 else shared_folder(group)
        for scheme, group in by_scheme.items()
    }


@dataclass(frozen=True)
class _Part:
    """One of the sources."""

    source: Source
    folder: str
    """Folder of the names of its image files."""
    ids: str
    """Beginning of its rows' ids, before a slash; empty for the shared folder."""
    names: str | None
    """The same for names of image files; None leaves them unchanged."""
    is_images: bool

    @classmethod
    def of(cls, known: Known, options: SourceOptions, shared: str) -> "_Part":
        is_images = known.form in ("image", "folder")
        folder = _folder_of(known)
        names = None if options.image_root is not None or is_remote(folder) else _below(shared, folder)
        return cls(
            open_known(known, without_unused(known, options)),
            folder,
            _below(shared, folder if is_images else known.place),
            names,
            is_images,
        )

    def row(self, row: Row) -> Row:
        """The row with an id among several sources, and a name, if that is a path of a file or a member."""
        row_id = _joined(self.ids, row.id)
        name = row.name
        if self.is_images:
            name = row_id
        elif name is not None and not isinstance(row.image, ImageUrl):
            if not isinstance(row.image, ImagePath):
                name = _joined(self.ids, name)
            elif self.names is not None and not os.path.isabs(name) and scheme_of(name) is None:
                name = _inside(_joined(self.names, name)) or name
        return replace(row, id=row_id, name=name)


class Several:
    """The sources one after the other.

    A row's id is a path below the shared folder of all sources: an image file's own, or that of the folder or
    manifest and the row's id in it. An image file that several sources name is one row.
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts
        self._overlap = _overlap(parts)
        folders = [part.source for part in parts if isinstance(part.source, ImageFiles)]
        for one in folders:
            one.read_elsewhere = frozenset(other.root for other in folders if other is not one)

    @property
    def columns(self) -> tuple[str, ...] | None:
        every = [part.source.columns for part in self._parts]
        known = [columns for columns in every if columns is not None]
        if len(known) < len(every):
            return None
        return tuple(name for name in known[0] if all(name in columns for columns in known))

    @property
    def skipped(self) -> Skipped:
        found = Skipped()
        for part in self._parts:
            found.add(part.source.skipped)
        return found

    @property
    def images_folder(self) -> Path | None:
        found = [part.source.images_folder for part in self._parts]
        known = [str(folder) for folder in found if folder is not None]
        return Path(shared_folder(known)) if len(known) == len(found) else None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(note for part in self._parts for note in part.source.notes)

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        seen: set[str] = set()
        for number, part in enumerate(self._parts):
            for one in part.source.rows(bad):
                row = part.row(one)
                if part.is_images and self._overlap:
                    if row.id in seen:
                        continue
                    seen.add(row.id)
                if isinstance(row.image, Embedded):
                    row = replace(row, image=Embedded(place=row.image.place * len(self._parts) + number))
                yield row

    def read(self, place: int) -> bytes:
        place, number = divmod(place, len(self._parts))
        return self._parts[number].source.read(place)


def _overlap(parts: Sequence[_Part]) -> bool:
    """Whether two of the parts may name the same image file, by their folders."""
    images = [part for part in parts if part.is_images]
    folders = Counter(part.folder for part in images)
    roots = {part.folder for part in images if isinstance(part.source, ImageFiles)}
    if "/" in roots and len(images) > 1:
        return True
    for folder, count in folders.items():
        if folder in roots and count > 1:
            return True
        while folder := folder.rpartition("/")[0]:
            if folder in roots:
                return True
    return False


def _folder_of(known: Known) -> str:
    """The folder of its rows' files, as far as its name tells."""
    if known.form == "folder" and known.is_pattern:
        return split_pattern(known.place)[0]
    return known.place if known.kind == "folder" else known.place.rpartition("/")[0] or "/"


def _below(shared: str, place: str) -> str:
    """The path of `place` below the shared folder; empty for that folder itself."""
    if not shared:
        return place
    return place.removeprefix(shared).lstrip("/")


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _inside(name: str) -> str | None:
    """The path without `..`; None if it leads out of the shared folder."""
    path = os.path.normpath(name)
    return None if path == ".." or path.startswith(("../", "/")) else path


def _refuse_strangers(sources: Sequence[tuple[str, SourceOptions]]) -> None:
    """Raises SourceError for files that are no sources: a pattern that the shell expands names all files."""
    places = [place for place, options in sources if options.format is None]
    strangers = [place for place in places if is_stranger(place)]
    if strangers:
        kinds = Skipped()
        for place in strangers:
            kinds.note_file(os.path.splitext(place)[1])
        raise SourceError(
            f"{len(strangers)} of the {len(sources)} sources are neither images nor manifests: "
            f"{kinds.kinds()} (such as {shown(strangers[0])}); {IN_QUOTES}"
        )
    stems = {stem for stem, suffix in map(os.path.splitext, places) if suffix.lower() != ".txt"}
    for place in places:
        stem, suffix = os.path.splitext(place)
        if suffix.lower() == ".txt" and stem in stems:
            raise SourceError(
                f"{shown(place)} is named like an image beside it, so it looks like that one's caption, and "
                f"not like a list of images; {IN_QUOTES}"
            )


def _refuse_unused(sources: Sequence[tuple[Known, SourceOptions]]) -> None:
    for name in dict.fromkeys(name for _, options in sources for name in given(options)):
        asked = [known for known, options in sources if name in given(options)]
        if not any(has_use(known, name) for known in asked):
            forms = ", ".join(sorted({known.form for known in asked}))
            raise SourceError(
                f"{option(name)} decides nothing: the sources are read as {forms}"
                + (", and in a pattern ** stands for any folders." if name == "recursive" else ".")
            )
