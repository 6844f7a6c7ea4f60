"""Reads images and texts for calibration; knows no model and no tensor.

A source is a folder of images, a manifest (.jsonl, .ndjson, .csv), a data set that Hugging Face `datasets`
saved to disk, or WebDataset shards: a .tar file or a folder of them. A seed chooses the entries; unreadable
ones are skipped.
"""

import csv
import io
import json
import random
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps

from contract.installing import install_line
from model_prep.refusal import ConversionError

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)
MANIFEST_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".csv"})
SAVED_DATASET_FILES: Final = ("state.json", "dataset_dict.json")
TEXT_COLUMNS: Final = ("question", "prompt", "caption", "text")
"""Columns with a sample's text, in order of preference."""
TEXTS: Final = (
    "Describe the image.",
    "Write a caption for this image.",
    "What is shown in this image?",
    "Describe everything in the picture in detail, and where it is.",
    "How many objects are there, and what are they?",
    "What text or numbers can be read in the image?",
    "What colours are there, and what has them?",
    "Is this photo taken indoors or outdoors? Answer with one word.",
)
"""Texts for images without a text, used in turn."""
MAX_PX: Final = 1 << 26
"""Pixels of a stored image; larger ones are skipped."""
MAX_SIDE_PX: Final = 2048
"""Longest side in pixels. Larger images are shrunk at once, so that a hundred fit into memory."""


@dataclass(frozen=True)
class Sample:
    """An upright RGB image, and a question or text about it."""

    image: Image.Image
    text: str


@dataclass(frozen=True)
class Samples:
    """The chosen samples of a source, in order."""

    samples: tuple[Sample, ...]
    skipped: int
    """Number of entries that were tried and could not be read as an image."""

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


@dataclass(frozen=True)
class _Entry:
    """An unopened entry of a source."""

    open: Callable[[], Path | bytes]
    """Returns the image's file or content. May raise any exception."""
    text: Callable[[], str | None]


def read_samples(source: str, count: int, seed: int = 0) -> Samples:
    """`count` samples of `source`; the same source, count and seed give the same samples.

    Raises ConversionError for another kind of source, or if fewer than `count` images can be read.
    """
    entries = _entries(Path(source))
    order = list(range(len(entries)))
    random.Random(seed).shuffle(order)
    found: list[Sample] = []
    tried = 0
    for index in order:
        if len(found) == count:
            break
        tried += 1
        image = _image(entries[index])
        if image is not None:
            text = entries[index].text() or TEXTS[len(found) % len(TEXTS)]
            found.append(Sample(image, text))
    if len(found) < count:
        raise ConversionError(
            f"{source} has {len(found)} usable images in {len(entries)} entries; "
            f"{count} are needed to calibrate with."
        )
    return Samples(tuple(found), skipped=tried - len(found))


def _entries(source: Path) -> Sequence[_Entry]:
    if source.is_dir():
        if any((source / name).is_file() for name in SAVED_DATASET_FILES):
            return _saved_dataset(source)
        shards = sorted(source.glob("*.tar"))
        return _shards(shards) if shards else _folder(source)
    if not source.is_file():
        raise ConversionError(f"There is no folder or file {source} to calibrate with.")
    suffix = source.suffix.lower()
    if suffix == ".tar":
        return _shards([source])
    if suffix in MANIFEST_SUFFIXES:
        return _manifest(source)
    raise ConversionError(
        f"{source} is no folder, no manifest ({', '.join(sorted(MANIFEST_SUFFIXES))}) and no .tar shard."
    )


def _folder(folder: Path) -> list[_Entry]:
    """Image files in `folder` and its subfolders by name, without hidden ones."""
    below = (path.relative_to(folder) for path in folder.rglob("*"))
    names = sorted(
        name.as_posix()
        for name in below
        if name.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in name.parts)
    )
    return [_Entry(partial(_file, folder / name), _no_text) for name in names]


def _manifest(manifest: Path) -> list[_Entry]:
    """One entry per line with an image; relative paths start from the manifest's folder."""
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as lines:
            rows = _csv_rows(lines) if manifest.suffix.lower() == ".csv" else _json_rows(lines, manifest)
            entries = [
                _Entry(partial(_file, manifest.parent / image), partial(_text, row))
                for row in rows
                if isinstance(image := row.get("image"), str) and image
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConversionError(f"{manifest} cannot be read: {error}.") from error
    if not entries:
        raise ConversionError(f"{manifest} has no line with an image.")
    return entries


def _csv_rows(lines: io.TextIOWrapper) -> Iterator[Mapping[str, Any]]:
    yield from csv.DictReader(lines)


def _json_rows(lines: io.TextIOWrapper, manifest: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConversionError(f"{manifest}, line {number} is not JSON: {error.msg}.") from error
        if isinstance(row, dict):
            yield row


def _shards(shards: Sequence[Path]) -> list[_Entry]:
    """One entry for each key of each shard. A key is a member's folder and its name before the first dot."""
    entries = []
    for shard in shards:
        texts: dict[str, str] = {}
        images: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isreg():
                        _sort_member(archive, member, images, texts)
        except (OSError, tarfile.TarError) as error:
            raise ConversionError(f"{shard} is no WebDataset shard: {error}.") from error
        entries += [
            _Entry(partial(_slice, shard, offset, size), partial(texts.get, key))
            for key, (offset, size) in images.items()
        ]
    return entries


def _sort_member(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    images: dict[str, tuple[int, int]],
    texts: dict[str, str],
) -> None:
    """Add a member to `images` (offset, size) or to `texts`, under its key."""
    folder, slash, name = member.name.rpartition("/")
    base, _, kind = name.partition(".")
    key, suffix = folder + slash + base, "." + kind.rpartition(".")[2].lower()
    if suffix in IMAGE_SUFFIXES:
        images.setdefault(key, (member.offset_data, member.size))
    elif suffix in (".txt", ".json") and (content := archive.extractfile(member)):
        said = content.read().decode("utf-8", "replace").strip()
        text = said if suffix == ".txt" else _json_text(said)
        if text:
            texts.setdefault(key, text)


def _json_text(content: str) -> str | None:
    try:
        row = json.loads(content)
    except json.JSONDecodeError:
        return None
    return _text(row) if isinstance(row, dict) else None


def _saved_dataset(folder: Path) -> list[_Entry]:
    """The rows of a data set written by save_to_disk; of several splits, the first by name."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ConversionError(
            f"{folder} was saved by Hugging Face datasets, which is not installed: "
            f"{install_line('datasets')}."
        ) from None
    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded[min(loaded)]
    if not isinstance(loaded.features.get("image"), datasets.Image):
        raise ConversionError(f"{folder} has no column named image with images in it.")
    # Decoding happens in _image, within its limits.
    rows = loaded.cast_column("image", datasets.Image(decode=False))
    texts = rows.remove_columns(["image"])
    return [
        _Entry(partial(_cell, rows, index), partial(_row_text, texts, index)) for index in range(len(rows))
    ]


def _text(row: Mapping[str, Any]) -> str | None:
    """The first text of a row; of a list of captions, its first."""
    for column in TEXT_COLUMNS:
        value = row.get(column)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _no_text() -> None:
    return None


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path


def _slice(shard: Path, offset: int, size: int) -> bytes:
    with shard.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _cell(rows: Any, index: int) -> Path | bytes:
    image = rows[index]["image"]
    content: bytes | None = image["bytes"]
    return _file(Path(image["path"])) if content is None else content


def _row_text(rows: Any, index: int) -> str | None:
    return _text(rows[index])


def _image(entry: _Entry) -> Image.Image | None:
    """The entry's image, upright, in RGB, at most MAX_SIDE_PX long; None if it cannot be read."""
    try:
        content = entry.open()
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        with warnings.catch_warnings():
            # Pillow's own limit is higher, and it only warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream) as opened:
                if opened.width * opened.height > MAX_PX:
                    return None
                upright = ImageOps.exif_transpose(opened).convert("RGB")
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's plugins raise any exception on a broken file
        return None
    upright.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return upright
