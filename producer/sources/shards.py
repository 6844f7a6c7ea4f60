"""Rows of WebDataset shards (.tar); decodes no member but .txt and .json."""

import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from contract.failure import Failure, FailureCode
from contract.job import ImageMember
from contract.quoting import quoted
from producer.rows import Embedded, Row, RowImage
from producer.sources.fields import find_roles, row_of
from producer.sources.files import IMAGE_SUFFIXES, is_remote, open_plain, reading
from producer.sources.json_text import parsed_object
from producer.sources.refusal import SourceError, shown
from producer.sources.skipped import Skipped
from producer.sources.source import SourceOptions

SHARD_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_KEY: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_SHARD_PLACES: Final = 1 << 44
"""Places within one shard: more bytes than a shard has."""
_TEXT_MAX_BYTES: Final = 1 << 26
_HEADERS: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of members that tell something of the next one, and are read into memory."""
_HEADER_MAX_BYTES: Final = 1 << 20
EMBEDDED_MAX_BYTES: Final = 50_000_000
"""As the workers' default bound on an image; what is larger is not read into memory."""


def shard_names(source: str) -> list[str]:
    """The shards that braces stand for, such as `name-{000000..000012}.tar`; without braces the one."""
    match = _RANGE.search(source)
    if match is None:
        return [source]
    first, last = int(match[1]), int(match[2])
    width = max(len(match[1]), len(match[2])) if match[1].startswith("0") or match[2].startswith("0") else 0
    step = 1 if last >= first else -1
    return [
        name
        for number in range(first, last + step, step)
        for name in shard_names(f"{source[: match.start()]}{number:0{width}d}{source[match.end() :]}")
    ]


class _TarInfo(tarfile.TarInfo):
    """A member whose header is read only if it is no longer than a name can be."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _HEADER_MAX_BYTES:
            raise tarfile.ReadError(f"one of its headers has {self.size} bytes")
        told: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed
        return told


@dataclass
class _Sample:
    """Members of one key, adjacent in a shard."""

    key: str
    members: dict[str, tarfile.TarInfo] = field(default_factory=dict)
    """By extension."""
    texts: dict[str, bytes] = field(default_factory=dict)


class Shards:
    """One row for each sample: adjacent members whose names are equal up to the first dot.

    A sample's image is the member with an image's extension; `.json` is merged into the columns and `.txt`
    becomes the column `txt`. Other members are not carried. Images of uncompressed local shards are read from
    the shard by the worker; those of other shards through `read`.
    """

    columns: tuple[str, ...] | None = None
    skipped = Skipped()
    images_folder: Path | None = None

    def __init__(self, shards: Sequence[str], options: SourceOptions) -> None:
        self._shards = shards
        self._options = options
        self._open: tuple[int, IO[bytes]] | None = None

    def rows(self) -> Iterator[Row]:
        empty = True
        for number, shard in enumerate(self._shards):
            with reading(shard):
                for sample in self._samples(shard):
                    empty = False
                    try:
                        row = self._row(sample, number)
                    except SourceError as error:
                        raise SourceError(f"{shown(shard)}, sample {quoted(sample.key)}: {error}") from None
                    yield row
        if empty:
            raise SourceError(f"{shown(self._shards[0])} has no samples.")

    def read(self, place: int) -> bytes:
        number, offset = divmod(place, _SHARD_PLACES)
        shard = self._shards[number]
        with reading(shard):
            if self._open is None or self._open[0] != number:
                if self._open is not None:
                    self._open[1].close()
                self._open = (number, open_plain(shard))
            stream = self._open[1]
            try:
                stream.seek(offset)
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_TarInfo) as archive:
                    member = archive.next()
                    content = None if member is None else archive.extractfile(member)
                    if content is not None:
                        return content.read()
            except tarfile.TarError:
                pass
        raise SourceError(f"{shown(shard)} was changed while it was in use.")

    def _samples(self, shard: str) -> Iterator[_Sample]:
        sample: _Sample | None = None
        with open_plain(shard) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_TarInfo) as archive:
                    # tarfile would remember every member.
                    kept: list[tarfile.TarInfo] = vars(archive)["members"]
                    while (member := archive.next()) is not None:
                        kept.clear()
                        match = _KEY.fullmatch(member.name) if member.isreg() else None
                        if match is None:
                            continue
                        if sample is None or sample.key != match[1]:
                            if sample is not None:
                                yield sample
                            sample = _Sample(match[1])
                        self._add(sample, match[2].lower(), member, archive, shard)
            except tarfile.TarError as error:
                raise SourceError(f"{shown(shard)} is no tar file: {error}.") from None
        if sample is not None:
            yield sample

    def _add(
        self, sample: _Sample, kind: str, member: tarfile.TarInfo, archive: tarfile.TarFile, shard: str
    ) -> None:
        where = f"{shown(shard)}, {quoted(member.name)}"
        if kind in sample.members:
            raise SourceError(f"{where}: the sample has two members of this extension.")
        if member.issparse():
            raise SourceError(f"{where}: sparse members are not read.")
        sample.members[kind] = member
        if kind in ("txt", "json"):
            if member.size > _TEXT_MAX_BYTES:
                raise SourceError(f"{where}: {member.size} bytes are too many for text.")
            content = archive.extractfile(member)
            assert content is not None
            sample.texts[kind] = content.read()

    def _row(self, sample: _Sample, shard: int) -> Row:
        record: dict[str, Any] = {}
        if "json" in sample.texts:
            record = parsed_object(sample.texts["json"].decode("utf-8-sig", "surrogateescape"))
        if "txt" in sample.texts:
            if "txt" in record:
                raise SourceError('both a member .txt and the .json name "txt"')
            record["txt"] = sample.texts["txt"].decode("utf-8-sig", "surrogateescape").strip()
        member = self._image_member(sample)
        image, refusal = self._reference(member, shard)
        row = row_of(
            record,
            find_roles(tuple(record), self._options, images=False),
            self._options,
            number=sample.key,
            root="",
            place=0,
            # A row that is refused has had an image too.
            image=image or (Embedded(place=0) if refusal else None),
            name=None if member is None else member.name,
        )
        if refusal is None:
            return row
        return Row(id=row.id, name=row.name, image=None, columns=row.columns, refusal=refusal)

    def _image_member(self, sample: _Sample) -> tarfile.TarInfo | None:
        asked = self._options.image_column
        if asked is not None:
            if asked.lower() not in sample.members:
                raise SourceError(f'no member has the extension "{asked}"')
            return sample.members[asked.lower()]
        found = [kind for kind in sample.members if f".{kind}" in IMAGE_SUFFIXES]
        # Such as KEY.image.jpg; KEY.jpg goes first.
        found = found or [k for k in sample.members if f".{k.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        if len(found) > 1:
            raise SourceError(
                f"the sample has several images, {', '.join(found)}; choose with --image-column"
            )
        return sample.members[found[0]] if found else None

    def _reference(
        self, member: tarfile.TarInfo | None, number: int
    ) -> tuple[RowImage | None, Failure | None]:
        if member is None:
            return None, None
        if member.size == 0:
            message = f"The member {quoted(member.name)} is empty."
            return None, Failure(code=FailureCode.IMAGE_BROKEN, message=message)
        shard = self._shards[number]
        if is_remote(shard) or not shard.lower().endswith(".tar"):
            if member.size > EMBEDDED_MAX_BYTES:
                message = f"The member {quoted(member.name)} has more than {EMBEDDED_MAX_BYTES} bytes."
                return None, Failure(code=FailureCode.IMAGE_TOO_LARGE, message=message)
            return Embedded(place=number * _SHARD_PLACES + member.offset), None
        return ImageMember.of(shard, member.offset_data, member.size, quoted(member.name)), None
