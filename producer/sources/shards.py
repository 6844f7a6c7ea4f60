"""Reads rows of WebDataset shards (.tar); reads no members except .txt and .json."""

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any, Final, NamedTuple

from contract.failure import Failure, FailureCode
from contract.job import ImageMember
from contract.quoting import quoted
from producer.rows import Embedded, Row, RowImage
from producer.sources.bad_rows import BadRows
from producer.sources.fields import find_roles, row_of
from producer.sources.files import (
    IMAGE_SUFFIXES,
    is_remote,
    is_system_folder,
    open_plain,
    reading,
    shared_folder,
)
from producer.sources.json_text import parsed_object
from producer.sources.refusal import SourceError, shown
from producer.sources.skipped import Skipped
from producer.sources.source import PlainSource, SourceOptions

SHARD_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
_RANGE: Final = re.compile(r"\{(\d+)\.\.(\d+)\}")
_KEY: Final = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_SHARD_PLACES: Final = 1 << 44
"""Number of places in one shard, more than a shard has bytes."""
_TEXT_MAX_BYTES: Final = 1 << 26
_HEADERS: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
"""Types of members that describe the next one, and are read into memory."""
_HEADER_MAX_BYTES: Final = 1 << 20
OPEN_SAMPLES: Final = 20_000
"""Number of incomplete samples in memory: twice as many as img2dataset puts into a shard."""
OPEN_TEXT_BYTES: Final = 1 << 26
"""Size of their texts in memory."""
MOST_KEYS: Final = 1_000_000
"""Number of a shard's keys that are kept to recognise errors."""
_TEXTS: Final = ("txt", "json")
_FAR_APART: Final = (
    f"its members lie more than {OPEN_SAMPLES} samples apart; sort the shard's files by name, as "
    "tar --sort=name does"
)
EMBEDDED_MAX_BYTES: Final = 50_000_000
"""Largest image that is read into memory, the workers' default bound."""


def shard_names(source: str) -> list[str]:
    """The shards that braces stand for, as in `name-{000000..000012}.tar`; without braces the name itself."""
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
    """A member whose header is read only up to the length that a name can have."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _HEADER_MAX_BYTES:
            raise tarfile.ReadError(f"one of its headers has {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed
        return member


class _Member(NamedTuple):
    """The place of a file in the shard."""

    name: str
    offset: int
    """Offset of its header."""
    offset_data: int
    size: int


@dataclass
class _Sample:
    """The members of one key in a shard."""

    key: str
    members: dict[str, _Member] = field(default_factory=dict)
    """Extension → member."""
    texts: dict[str, bytes] = field(default_factory=dict)
    fault: str | None = None
    """Why it cannot be a row."""

    @property
    def text_bytes(self) -> int:
        return sum(map(len, self.texts.values()))


class Shards(PlainSource):
    """One row for each sample: members of a shard whose names are equal up to the first dot.

    A sample's image is the member with an image's extension; `.json` is merged into the columns and `.txt`
    becomes the column `txt`. Other members are counted as skipped. A sample's members may be apart, within
    bounds. Workers read images of uncompressed local shards themselves; those of other shards go through
    `read`.
    """

    columns = None

    def __init__(self, shards: Sequence[str], options: SourceOptions) -> None:
        self._shards = shards
        self._options = options
        self._open: tuple[int, IO[bytes]] | None = None
        self._folder = shared_folder([shard.rpartition("/")[0] for shard in shards])
        """The folder above all shards."""

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        bad = bad or BadRows()
        skipped = Skipped()
        first_keys: set[int] = set()
        for number, shard in enumerate(self._shards):
            with reading(shard):
                for sample in self._samples(shard, skipped):
                    empty = False
                    where = f"{shown(shard)}, sample {quoted(sample.key)}"
                    if number == 0 and len(first_keys) < MOST_KEYS:
                        first_keys.add(hash(sample.key))
                    again = number > 0 and hash(sample.key) in first_keys
                    try:
                        row = self._row(sample, number, where, skipped, again=again)
                    except SourceError as error:
                        yield from bad.instead(self._number(sample, number), where, str(error))
                    else:
                        yield row
        self.skipped = skipped
        if empty:
            raise SourceError(f"{shown(self._shards[0])} has no samples.{skipped.instead()}")

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

    def _samples(self, shard: str, skipped: Skipped) -> Iterator[_Sample]:
        """Samples in the order of their first members; a bounded number is in memory."""
        open_samples: dict[str, _Sample] = {}
        text_bytes = 0
        ended: set[int] = set()
        with open_plain(shard) as stream:
            try:
                with tarfile.open(fileobj=stream, mode="r:", tarinfo=_TarInfo) as archive:
                    # Without this, tarfile would keep every member.
                    kept: list[tarfile.TarInfo] = vars(archive)["members"]
                    while (member := archive.next()) is not None:
                        kept.clear()
                        named = _named(member, skipped)
                        if named is None:
                            continue
                        key, kind = named
                        sample = open_samples.get(key)
                        if sample is None:
                            sample = open_samples[key] = _Sample(key)
                            if hash(key) in ended:
                                sample.fault = _FAR_APART
                        text_bytes -= sample.text_bytes
                        self._add(sample, kind, member, archive, shard)
                        text_bytes += sample.text_bytes
                        while len(open_samples) > OPEN_SAMPLES or text_bytes > OPEN_TEXT_BYTES:
                            oldest = open_samples.pop(next(iter(open_samples)))
                            text_bytes -= oldest.text_bytes
                            if len(ended) < MOST_KEYS:
                                ended.add(hash(oldest.key))
                            yield from _parted(oldest)
            except tarfile.TarError as error:
                raise SourceError(f"{shown(shard)} is no tar file: {error}.") from None
        for sample in open_samples.values():
            yield from _parted(sample)

    def _add(
        self, sample: _Sample, kind: str, member: tarfile.TarInfo, archive: tarfile.TarFile, shard: str
    ) -> None:
        if kind in sample.members:
            sample.fault = f"it has two members of the extension {kind}"
            return
        if member.issparse():
            sample.fault = f"{quoted(member.name)} is sparse, which is not read"
        sample.members[kind] = _Member(member.name, member.offset, member.offset_data, member.size)
        text_kind = kind.rpartition(".")[2]
        if text_kind in _TEXTS:
            if member.size > _TEXT_MAX_BYTES:
                raise SourceError(
                    f"{shown(shard)}, {quoted(member.name)}: {member.size} bytes are too many for text."
                )
            content = archive.extractfile(member)
            assert content is not None
            sample.texts[kind] = content.read()

    def _row(self, sample: _Sample, shard: int, where: str, skipped: Skipped, *, again: bool) -> Row:
        """The row of a sample; `again` says that the first shard has the same key. Raises SourceError."""
        if sample.fault is not None:
            raise SourceError(sample.fault)
        record: dict[str, Any] = {}
        if "json" in sample.texts:
            record = parsed_object(sample.texts["json"].decode("utf-8-sig", "surrogateescape"))
        if "txt" in sample.texts:
            if "txt" in record:
                raise SourceError('both a member .txt and the .json name "txt"')
            record["txt"] = sample.texts["txt"].decode("utf-8-sig", "surrogateescape").strip()
        member = self._image_member(sample)
        for kind, other in sample.members.items():
            if other is not member and kind not in _TEXTS:
                skipped.note_file(f".{kind.rpartition('.')[2]}")
        image, refusal = self._reference(member, shard)
        roles = find_roles(tuple(record), self._options, images=False)
        if again and roles.id is None and not self._options.shard_ids:
            raise SourceError(
                f"{shown(self._shards[0])} has a sample of this key, too: --shard-ids makes SHARD/KEY the id"
            )
        row = row_of(
            record,
            roles,
            self._options,
            number=self._number(sample, shard),
            root="",
            place=0,
            # A refused row has an image, too.
            image=image or (Embedded(place=0) if refusal else None),
            name=None if member is None else member.name,
            where=where,
        )
        if refusal is None:
            return row
        return replace(row, image=None, questions=(), parameters={}, detail=None, refusal=refusal)

    def _number(self, sample: _Sample, shard: int) -> str:
        """The id of a sample without an id of its own."""
        if not self._options.shard_ids:
            return sample.key
        name = self._shards[shard].removeprefix(self._folder).lstrip("/")
        suffix = next((suffix for suffix in SHARD_SUFFIXES if name.lower().endswith(suffix)), "")
        return f"{name[: len(name) - len(suffix)]}/{sample.key}"

    def _image_member(self, sample: _Sample) -> _Member | None:
        asked = self._options.image_column
        if asked is not None:
            if asked.lower() not in sample.members:
                raise SourceError(f'no member has the extension "{asked}"')
            return sample.members[asked.lower()]
        found = [kind for kind in sample.members if f".{kind}" in IMAGE_SUFFIXES]
        # KEY.image.jpg, if there is no KEY.jpg.
        found = found or [k for k in sample.members if f".{k.rpartition('.')[2]}" in IMAGE_SUFFIXES]
        if len(found) > 1:
            raise SourceError(
                f"the sample has several images, {', '.join(found)}; choose with --image-column"
            )
        return sample.members[found[0]] if found else None

    def _reference(self, member: _Member | None, number: int) -> tuple[RowImage | None, Failure | None]:
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


def _named(member: tarfile.TarInfo, skipped: Skipped) -> tuple[str, str] | None:
    """(key, extension) of a member; None for a member of no sample, which is counted as skipped."""
    if member.isdir():
        return None
    folder, name = os.path.split(member.name)
    if is_system_folder(folder):
        skipped.system += 1
    elif name.startswith("."):
        skipped.hidden += 1
    else:
        match = _KEY.fullmatch(member.name) if member.isreg() else None
        if match is not None:
            return match[1], match[2].lower()
        skipped.note_file(os.path.splitext(name)[1])
    return None


def _parted(sample: _Sample) -> Iterator[_Sample]:
    """The sample; or several, if the names have dots before numbers, as in `22.05.jpg`."""
    parts: dict[str, _Sample] = {}
    for kind, member in sample.members.items():
        begin, dot, last = kind.rpartition(".")
        if not dot or not begin[0].isdigit():
            yield sample
            return
        key = member.name.rpartition(".")[0]
        part = parts.setdefault(key, _Sample(key, fault=sample.fault))
        part.members[last] = member
        if kind in sample.texts:
            part.texts[last] = sample.texts[kind]
    if all(any(f".{kind}" in IMAGE_SUFFIXES for kind in part.members) for part in parts.values()):
        yield from parts.values()
    else:
        yield sample
