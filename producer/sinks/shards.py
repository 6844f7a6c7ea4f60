"""Writes images and answers as WebDataset shards; knows nothing of where images come from."""

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from producer.rows import AnsweredRow, ReadImage
from producer.sinks.answers import answer_line, caption
from producer.sinks.columns import printable
from producer.sinks.files import GrowingFile, json_text, sync_folder
from producer.sinks.output_record import OutputFile, OutputRecord
from producer.sinks.sink import LeftAlone, Rows, Sink, SinkError, SinkOptions
from producer.sources import shown
from producer.sources.files import IMAGE_SUFFIXES

BLOCK_BYTES: Final = tarfile.BLOCKSIZE
APPEND_BYTES: Final = 16 * 2**20
"""Bytes of samples that are in memory before they are appended."""
MAGIC: Final = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
COMPONENT_CHARACTERS: Final = 80
"""Largest length of a part of a sample's key."""


class ShardsSink(Sink):
    """NAME-000000.tar, NAME-000001.tar, …; a shard is called NAME-….tar.new until it is full.

    A sample is KEY.jpg (the original bytes), KEY.txt (the caption) and KEY.json (the row's line).
    """

    def __init__(
        self, name: str, path: Path, options: SinkOptions, read_image: ReadImage, record: OutputRecord
    ) -> None:
        """`path` is NAME.tar; the shards are in its folder."""
        super().__init__(name)
        self._stem = path.with_suffix("") if path.suffix == ".tar" else path
        self._options = options
        self._read_image = read_image
        self._record = record
        self._shard = 0
        self._samples = 0
        self._file: GrowingFile | None = None

    def files(self) -> list[OutputFile]:
        """All files with a shard's name; a new run removes them."""
        return [self._output(shard, path) for shard, path in self._shards()]

    def resume(self, place: dict[str, Any] | None) -> None:
        self.close()
        self.left_alone = LeftAlone.from_place(place)
        self._shard, self._samples = (0, 0) if place is None else (place["shard"], place["samples"])
        filling, full = self._path(self._shard, ".new"), self._path(self._shard)
        if place is None or not self._samples:
            self._remove_from(self._shard)
            return
        if full.exists() and not filling.exists():
            full.rename(filling)
        self._remove_from(self._shard + 1)
        if not filling.exists():
            raise SinkError(
                f"{shown(full)} is gone: put it back, or have all outputs written again with run --resume "
                "--overwrite."
            )
        self._file = GrowingFile(self._output(self._shard, filling))
        self._file.resume(place["bytes"])

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        members: list[bytes] = []
        for row in rows:
            sample = self._sample(row)
            if sample is None:
                continue
            members.append(sample)
            self._samples += 1
            if sum(map(len, members)) >= APPEND_BYTES:
                self._append(members)
            if self._samples == self._options.samples_per_shard:
                self._append(members)
                self._close_shard()
                self._shard += 1
                self._samples = 0
        self._append(members)
        return {
            "shard": self._shard,
            "samples": self._samples,
            "bytes": 0 if self._file is None else self._file.size_bytes,
            "left_alone": self.left_alone.to_place(),
        }

    def finish(self, rows: Rows) -> None:  # noqa: ARG002 - every row is there already
        if self._file is not None:
            self._close_shard()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, members: list[bytes]) -> None:
        if not members:
            return
        if self._file is None:
            self._file = GrowingFile(self._output(self._shard, self._path(self._shard, ".new")))
            self._file.resume(None)
        self._file.append(b"".join(members))
        members.clear()

    def _close_shard(self) -> None:
        assert self._file is not None
        end = 2 * BLOCK_BYTES
        end += -(self._file.size_bytes + end) % tarfile.RECORDSIZE
        self._file.append(bytes(end))
        self.close()
        self._path(self._shard, ".new").rename(self._path(self._shard))
        sync_folder(self._stem.parent)

    def _sample(self, row: AnsweredRow) -> bytes | None:
        text, reason = caption(row, self._options)
        if text is None:
            self.left_alone.note(reason, printable(row.name or row.id))
            return None
        image = self._read_image(row)
        if image is None:
            self.left_alone.miss(row, "its image cannot be read")
            return None
        key = sample_key(row)
        extension = _extension(row.name, image)
        return b"".join(
            _member(f"{key}.{suffix}", content)
            for suffix, content in (
                (extension, image),
                ("txt", text.encode()),
                ("json", json_text(answer_line(row))),
            )
        )

    def _path(self, shard: int, ending: str = "") -> Path:
        return self._stem.with_name(f"{self._stem.name}-{shard:06d}.tar{ending}")

    def _output(self, shard: int, path: Path) -> OutputFile:
        """A shard's file. The record knows it by its later name, which it has when it is full."""
        return OutputFile(path, self._record, "webdataset", known_as=self._path(shard))

    def _remove_from(self, shard: int) -> None:
        for found, path in self._shards():
            if found >= shard:
                path.unlink()
                self._output(found, path).forget()
        sync_folder(self._stem.parent)

    def _shards(self) -> Iterator[tuple[int, Path]]:
        pattern = re.compile(re.escape(self._stem.name) + r"-([0-9]{6,})\.tar(\.new)?")
        with suppress(FileNotFoundError), os.scandir(self._stem.parent) as entries:
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match:
                    yield int(match[1]), Path(entry.path)


def sample_key(row: AnsweredRow) -> str:
    """FOLDERS/POSITION_STEM, from the row's name and its position, which makes the key unique.

    Without dots, which end a key, and without characters that are special to shells or file systems.
    """
    name = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", row.name or row.id)
    parts = [re.sub(r"[^\w-]+", "_", part) for part in os.path.splitext(name)[0].split("/")]
    folders = [part[:COMPONENT_CHARACTERS] for part in parts[:-1] if part.strip("_")]
    stem = parts[-1][:COMPONENT_CHARACTERS].strip("_")
    return "/".join([*folders, f"{row.position:09d}" + (f"_{stem}" if stem else "")])


def _extension(name: str | None, image: bytes) -> str:
    """The name's extension in lower case; if it is no image's, by the image's first bytes."""
    suffix = os.path.splitext(name or "")[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return suffix[1:]
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    if image[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "heic"
    return next((kind for magic, kind in MAGIC if image.startswith(magic)), "img")


def _member(name: str, content: bytes) -> bytes:
    """A member of a tar: equal bytes for equal content, at any time and on any machine."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    file = io.BytesIO(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    file.seek(0, os.SEEK_END)
    file.write(content)
    file.write(bytes(-len(content) % BLOCK_BYTES))
    return file.getvalue()
