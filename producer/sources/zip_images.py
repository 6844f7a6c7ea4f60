"""Reads the images in a .zip; knows nothing of the texts beside them."""

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Final

from contract.failure import Failure, FailureCode
from contract.quoting import quoted
from producer.rows import Embedded, Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import image_suffixes, is_system_folder, open_raw, reading
from producer.sources.refusal import NoImagesError, SourceError, shown
from producer.sources.shards import EMBEDDED_MAX_BYTES
from producer.sources.skipped import CAPTION_SUFFIXES, Captions, Skipped
from producer.sources.source import PlainSource

_DAMAGED: Final = (
    *(OSError, ValueError, RuntimeError, NotImplementedError, EOFError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
_ENCRYPTED: Final = 1
_NOTHING: Final = b"nothing of the member can be read"


class ZipImages(PlainSource):
    """The image files of an archive, in its order. A member's place is its number in the archive."""

    def __init__(self, source: str) -> None:
        """Reads the archive's directory. Raises SourceError."""
        self._source = source
        with reading(source):
            self._stream = open_raw(source)
            try:
                self._archive = zipfile.ZipFile(self._stream)
            except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
                raise SourceError(f"{shown(source)} is no zip file: {error}.") from None
        self._members = self._archive.infolist()
        self._places = {member.filename: place for place, member in enumerate(self._members)}
        if any(member.flag_bits & _ENCRYPTED for member in self._members):
            raise SourceError(f"{shown(source)} is encrypted: unpack it, and name the folder.")

    def names(self) -> list[str]:
        """Names of all members that are files."""
        return [member.filename for member in self._members if not member.is_dir()]

    def image(self, name: str) -> Row | None:
        """The row of a member; None if there is none of this name."""
        place = self._places.get(name)
        return None if place is None else self._row(self._members[place], place)

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        bad = bad or BadRows()
        suffixes = image_suffixes()
        skipped = Skipped()
        captions = Captions(skipped)
        for place, member in enumerate(self._members):
            if member.is_dir():
                continue
            folder, name = os.path.split(member.filename)
            stem, suffix = os.path.splitext(name)
            if is_system_folder(folder):
                skipped.system += 1
            elif name.startswith("."):
                skipped.hidden += 1
            elif suffix.lower() in CAPTION_SUFFIXES:
                captions.note_text(folder, stem, suffix)
            elif suffix.lower() not in suffixes:
                skipped.note_file(suffix)
            else:
                captions.note_image(folder, name)
                empty = False
                if self._places[member.filename] == place:
                    yield self._row(member, place)
                else:
                    where = f"{shown(self._source)}, {quoted(member.filename)}"
                    row_id = f"{member.filename} (member {place + 1})"
                    yield from bad.instead(
                        row_id, where, "a later member has the same name, and takes its place"
                    )
        captions.end()
        self.skipped = skipped
        if empty:
            raise NoImagesError(f"There are no images in {shown(self._source)}.{skipped.instead()}")

    def read(self, place: int) -> bytes:
        if place >= len(self._members):
            raise SourceError(f"{shown(self._source)} was changed while it was in use.")
        content = bytearray()
        try:
            with self._archive.open(self._members[place]) as member:
                while len(content) <= EMBEDDED_MAX_BYTES and (piece := member.read(1 << 20)):
                    content += piece
        except _DAMAGED:
            # The worker gets the readable part, and says what is wrong with the image.
            pass
        return bytes(content) or _NOTHING

    def _row(self, member: zipfile.ZipInfo, place: int) -> Row:
        where = f"{shown(self._source)}, {quoted(member.filename)}"
        row_id = member.filename
        if member.file_size > EMBEDDED_MAX_BYTES:
            message = f"The member {quoted(row_id)} has more than {EMBEDDED_MAX_BYTES} bytes."
            refusal = Failure(code=FailureCode.IMAGE_TOO_LARGE, message=message)
            return Row(id=row_id, name=row_id, image=None, where=where, refusal=refusal)
        return Row(id=row_id, name=row_id, image=Embedded(place=place), where=where)
