"""Recognises a source's form and opens it; reads no rows."""

import os
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, get_args

from contract.counting import counted
from contract.installing import install_line
from contract.quoting import quoted
from producer.sources.delimited import Delimited
from producer.sources.file_list import FileList
from producer.sources.files import (
    IMAGE_SUFFIXES,
    Entry,
    entries,
    has_wildcard,
    is_remote,
    joined,
    kind_of,
    local_path,
    matches,
    parent,
    reading,
    scheme_of,
    split_pattern,
)
from producer.sources.folder import ImageFiles
from producer.sources.heic import EXTRA, HEIC_SUFFIXES, reads_heic
from producer.sources.image_file import ImageFile
from producer.sources.image_folder import (
    METADATA,
    ImageFolder,
    Images,
    Metadata,
    metadata_files,
    split_folders,
)
from producer.sources.json_object import JsonObject
from producer.sources.json_text import parsed_object
from producer.sources.jsonl import JsonLines, JsonList
from producer.sources.known_forms import is_container
from producer.sources.lines import lines
from producer.sources.openai_batch import LINE_KEYS, OpenAIBatch
from producer.sources.parquet import Parquet
from producer.sources.records import Records, RecordSource
from producer.sources.refusal import SourceError, listed, shown
from producer.sources.saved_dataset import HUB_PREFIX, SAVED_FILES, arrow_parts, from_hub, saved
from producer.sources.shards import SHARD_SUFFIXES, Shards, shard_names
from producer.sources.source import Format, Source, SourceOptions
from producer.sources.text import open_text, text_codec
from producer.sources.zip_images import ZipImages

_BY_SUFFIX: Final[dict[str, Format]] = {
    ".txt": "list",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonlines": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".zip": "zip",
    ".tar": "webdataset",
    ".tgz": "webdataset",
    ".arrow": "datasets",
}
_TABLES: Final = ("csv", "tsv", "jsonl", "json", "parquet", "datasets", "imagefolder", "zip")
_USES: Final[dict[str, frozenset[Format]]] = {
    "recursive": frozenset({"folder", "imagefolder"}),
    "sniff": frozenset({"folder", "imagefolder"}),
    "shard_ids": frozenset({"webdataset"}),
    "delimiter": frozenset({"csv", "tsv", "imagefolder", "zip"}),
    "quoting": frozenset({"csv", "tsv", "imagefolder", "zip"}),
    "encoding": frozenset({"list", "csv", "tsv", "jsonl", "json", "openai", "imagefolder", "zip"}),
    "image_column": frozenset({*_TABLES, "webdataset"}),
    "question_column": frozenset({*_TABLES, "webdataset"}),
    "parameters": frozenset({*_TABLES, "webdataset"}),
    "text_only": frozenset({*_TABLES, "openai", "webdataset"}),
    "id_column": frozenset({*_TABLES, "webdataset"}),
    "image_root": frozenset({"list", "csv", "tsv", "jsonl", "json", "openai", "parquet", "datasets"}),
    "split": frozenset({"datasets", "parquet", "imagefolder"}),
}
"""Option → the forms that it has an effect for."""
_PACKED: Final = frozenset({".7z", ".rar", ".bz2", ".xz", ".zst", ".lz4", ".tbz2", ".txz", ".z", ".tfrecord"})
DATA_FOLDER: Final = "data"
"""Folder of the files in a clone of a hub data set, beside its README."""
_IN_A_PATTERN: Final = "--recursive is for folders; in a pattern ** stands for any folders."
_SPLIT_PART: Final = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?\.\w+")


@dataclass(frozen=True)
class Known:
    """A source and its recognised form."""

    place: str
    """Absolute path or URL."""
    kind: str | None
    """`folder` or `file`; None if it is neither or was not checked."""
    form: Format

    @property
    def is_pattern(self) -> bool:
        return self.kind is None and has_wildcard(self.place)


def open_source(source: str, options: SourceOptions = SourceOptions()) -> Source:  # noqa: B008 - it is frozen
    """Open an image, a folder, pattern, file, data set or URL.

    Forms: one image; a folder or a pattern (`photos/**/*.jpg`) of images; a list of paths or URLs (.txt);
    CSV, TSV, JSONL, each also .gz; JSON with a list; OpenAI batch files; Parquet, one file, a folder or a
    pattern; WebDataset shards, likewise or in brace notation; data sets that `datasets` saved; `hf://owner/name`.
    A column named like a field of GenerationParameters, or `detail`, sets it for its row if the value fits.
    Raises SourceError for other sources, and for options without effect.
    """
    known = recognise(source, options)
    for name in given(options):
        if not has_use(known, name):
            raise SourceError(
                _IN_A_PATTERN
                if name == "recursive" and known.is_pattern
                else f"{option(name)} is for {', '.join(sorted(_USES[name]))}; "
                f"{shown(known.place)} is read as {known.form}."
            )
    return open_known(known, options)


def place_of(source: str) -> str:
    """The source's absolute path or URL, the same for all spellings. Raises SourceError."""
    if scheme_of(source) == "file":
        source = local_path(source)
    if not source:
        raise SourceError("The source has no name.")
    return source.rstrip("/") if is_remote(source) else os.path.abspath(source)


def recognise(source: str, options: SourceOptions) -> Known:
    """The source with its form. Raises SourceError if it does not exist, or no form fits."""
    place = place_of(source)
    if options.format not in (None, *get_args(Format)):
        raise SourceError(f'"{options.format}" is none of the forms {", ".join(get_args(Format))}.')
    if place.startswith(HUB_PREFIX):
        return Known(place, None, "datasets")
    if scheme_of(place) in ("http", "https") and "image" in (options.format, _form_by_suffix(place)):
        return Known(place, None, "image")  # the worker that fetches it sees whether it exists
    is_pattern = has_wildcard(place) or (len(shard_names(place)) > 1 and not os.path.lexists(place))
    kind = None if is_pattern else kind_of(place)
    if kind is None and not is_pattern:
        raise SourceError(f"There is no folder or file {shown(place)}.")
    if options.format is not None:
        return Known(place, kind, options.format)
    if kind != "folder":
        return Known(place, kind, _file_form(place, kind, options.encoding))
    form = _folder_form(place, options.unread)
    here = entries(place)
    has_images = any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in here)
    if form == "folder" and not has_images and Entry(DATA_FOLDER, is_folder=True) in here:
        within = joined(place, DATA_FOLDER)
        if (form_within := _folder_form(within, options.unread)) in ("parquet", "webdataset", "datasets"):
            return Known(within, kind, form_within)
    return Known(place, kind, form)


def given(options: SourceOptions) -> list[str]:
    """Names of the given options, of those that only some forms use."""
    defaults = SourceOptions()
    return [name for name in _USES if getattr(options, name) != getattr(defaults, name)]


def has_use(known: Known, name: str) -> bool:
    """Whether an option has an effect for a source."""
    return known.form in _USES[name] and not (name == "recursive" and known.is_pattern)


def without_unused(known: Known, options: SourceOptions) -> SourceOptions:
    """The options without those that have no effect for the source."""
    defaults = SourceOptions()
    unused = {name: getattr(defaults, name) for name in given(options) if not has_use(known, name)}
    return replace(options, **unused)


def option(name: str) -> str:
    """The option's name on the command line."""
    return f"--{name.replace('_', '-')}"


def open_known(known: Known, options: SourceOptions) -> Source:
    """Open a recognised source; `options` has only options with an effect. Raises SourceError."""
    source, kind, form = known.place, known.kind, known.form
    if form == "image":
        return _image(known)
    if source.startswith(HUB_PREFIX):
        return from_hub(source, options)
    if form == "folder":
        if kind == "folder":
            return ImageFiles.of_folder(source, recursive=options.recursive, sniff=options.sniff)
        if known.is_pattern:
            root, pattern = split_pattern(source)
            return ImageFiles(source, root, pattern, tells_of_subfolders=False, sniff=options.sniff)
        raise SourceError(f"{shown(source)} is no folder.")
    if form == "imagefolder":
        if kind != "folder":
            raise SourceError(f"{shown(source)} is no folder.")
        return _image_folder(source, options)
    if form == "datasets":
        return _dataset(source, kind, options)
    if form in ("parquet", "webdataset"):
        suffixes = (".parquet",) if form == "parquet" else SHARD_SUFFIXES
        parts = _parts(source, kind, suffixes)
        if form == "webdataset":
            return Shards(parts, options)
        parts = _parts_of_split(source, parts, options.split)
        return Parquet(parts, options, _root(parts[0], options))
    if kind != "file":
        raise SourceError(f"{shown(source)} is not one file, which {form} needs.")
    return _zip(source, options) if form == "zip" else _manifest(source, form, options)


def _image_folder(source: str, options: SourceOptions) -> Source:
    splits = split_folders(source)
    if options.split is not None and options.split not in splits:
        raise SourceError(
            f'{shown(source)} has no folder "{quoted(options.split)}" of a split; it has '
            f"{listed(splits) or 'none'}."
        )
    files = metadata_files(source, options.unread)
    if options.split is not None:
        files = [(file, folder) for file, folder in files if folder in ("", f"{options.split}/")]
    images: Images
    archive = _only_archive(source) if files else None
    alone = ""
    if options.split is not None:
        below = (options.split, "**", "*")
        images = ImageFiles(source, source, below, tells_of_subfolders=False, sniff=options.sniff)
    else:
        # Recognised folders are read without --recursive.
        recursive = options.recursive or bool(splits) or not files
        images = ImageFiles.of_folder(source, recursive=recursive, sniff=options.sniff)
        if files and archive is None:
            below_too = " --recursive" if recursive and not options.recursive else ""
            alone = f"--format folder{below_too} reads the images alone"
    if archive is not None:
        images = ZipImages(archive)
    try:
        parts = [
            Metadata(
                file, folder, _metadata(joined(source, file), joined(source, folder).rstrip("/"), options)
            )
            for file, folder in files
        ]
    except SourceError as error:
        raise SourceError(f"{error} {alone}." if alone else str(error)) from None
    return ImageFolder(source, images, parts, labels=bool(splits), split=options.split, alone=alone)


def _only_archive(folder: str) -> str | None:
    """The only .zip of a folder, if the folder itself has no images."""
    names = [entry.name for entry in entries(folder) if not entry.is_folder]
    suffixes = [os.path.splitext(name)[1].lower() for name in names]
    if suffixes.count(".zip") != 1 or not IMAGE_SUFFIXES.isdisjoint(suffixes):
        return None
    return joined(folder, names[suffixes.index(".zip")])


def _zip(source: str, options: SourceOptions) -> Source:
    images = ZipImages(source)
    files = [
        (name, name[: -len(base)]) for name in images.names() if (base := name.rpartition("/")[2]) in METADATA
    ]
    parts = [
        Metadata(file, folder, _metadata(f"{source}!/{file}", f"{source}!/", options))
        for file, folder in files
    ]
    return ImageFolder(source, images, parts)


def _metadata(file: str, root: str, options: SourceOptions) -> Source:
    options = replace(options, recursive=False, sniff=False, split=None)
    if file.endswith(".parquet"):
        return Parquet([file], options, root)
    records = Delimited(file, "csv", options) if file.endswith(".csv") else JsonLines(file, options.encoding)
    return RecordSource(file, root, records, options)


def _image(known: Known) -> Source:
    if known.kind == "folder" or known.is_pattern:
        raise SourceError(f"{shown(known.place)} is not one image.")
    if os.path.splitext(known.place)[1].lower() in HEIC_SUFFIXES and not reads_heic():
        raise SourceError(
            f"{shown(known.place)} is a HEIC photo, and what decodes those is not installed: "
            f"{install_line(EXTRA)}."
        )
    return ImageFile(known.place)


def _manifest(source: str, form: Format, options: SourceOptions) -> Source:
    if options.encoding is not None:
        text_codec(options.encoding)
    root = _root(source, options)
    if form == "list":
        return FileList(source, root, options.encoding)
    if form == "openai":
        return OpenAIBatch(source, root, options)
    if form in ("csv", "tsv"):
        return RecordSource(source, root, Delimited(source, form, options), options)
    return RecordSource(source, root, _json_records(source, form, root, options.encoding), options)


def _json_records(source: str, form: Format, root: str, encoding: str | None) -> Records:
    if form == "jsonl":
        return JsonLines(source, encoding)
    with reading(source), open_text(source, encoding) as stream:
        is_object = _first_character(stream.read(1 << 12)) == b"{"
    return JsonObject(source, root, encoding) if is_object else JsonList(source, encoding)


def _first_character(head: bytes) -> bytes:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


def _root(source: str, options: SourceOptions) -> str:
    root = options.image_root
    if root is None:
        return parent(source)
    return root if is_remote(root) else os.path.abspath(root)


def _form_by_suffix(source: str) -> Format | None:
    """The form of a file by its name alone; None if the name does not tell."""
    if scheme_of(source) in ("http", "https"):
        source = urllib.parse.urlsplit(source).path
    name = source.lower()
    if os.path.splitext(name)[1] in IMAGE_SUFFIXES:
        return "image"
    return _BY_SUFFIX.get(os.path.splitext(name.removesuffix(".gz"))[1])


def is_stranger(source: str) -> bool:
    """Whether it is a local file whose name is neither an image's nor a manifest's."""
    return not is_remote(source) and os.path.isfile(source) and _form_by_suffix(source) is None


def _file_form(source: str, kind: str | None, encoding: str | None) -> Format:
    """The form of a file or of a pattern's files, by their suffix, and for JSON by its beginning."""
    form = _form_by_suffix(source)
    if kind is None:
        if form in (None, "image"):
            return "folder"
        if form in ("parquet", "webdataset", "datasets"):
            return form
        raise SourceError(
            f"{shown(source)}: a pattern is for images, Parquet, Arrow or shards; "
            f"{form} is read one file a time."
        )
    if form is None:
        if os.path.splitext(source)[1].lower() in _PACKED:
            raise SourceError(f"{shown(source)} is packed in a form that is not read: unpack it first.")
        raise SourceError(
            f"{shown(source)} is no folder, and no form is known by its name; --format says which it is."
        )
    if form in ("jsonl", "json"):
        return _json_form(source, encoding)
    return form


def _json_form(source: str, encoding: str | None) -> Format:
    """Whether it is a JSON list, batch lines or other lines, by the first line that is not blank."""
    with reading(source), open_text(source, encoding) as stream:
        try:
            # A list may be one line of gigabytes.
            if _first_character(stream.read(1 << 12)) == b"[":
                return "json"
            stream.seek(0)
            texts = (line.text for line in lines(stream) if line.text.strip())
            first = parsed_object(next(texts, ""))
            if set(LINE_KEYS) <= first.keys():
                return "openai"
            is_one = source.lower().removesuffix(".gz").endswith(".json") and next(texts, None) is None
            return "json" if is_one and is_container(first) else "jsonl"
        except SourceError:
            # An object over several lines, or a line that is no object.
            return "json" if source.lower().removesuffix(".gz").endswith(".json") else "jsonl"


def _folder_form(folder: str, unread: Sequence[str]) -> Format:
    names = [entry.name for entry in entries(folder)]
    if any(name in SAVED_FILES for name in names):
        return "datasets"
    if metadata_files(folder, unread):
        return "imagefolder"
    if any(name.removesuffix(".parquet") in names for name in names if name.endswith(".parquet")):
        return "imagefolder"  # img2dataset's folders, each with a table
    suffixes = {os.path.splitext(name.lower().removesuffix(".gz"))[1] for name in names}
    forms: list[Format] = ["folder"] if suffixes & IMAGE_SUFFIXES else []
    if suffixes & {".tar", ".tgz"}:
        forms.append("webdataset")  # img2dataset puts Parquet beside its shards
    elif ".parquet" in suffixes:
        forms.append("parquet")
    elif ".arrow" in suffixes:
        forms.append("datasets")
    if len(forms) > 1:
        raise SourceError(f"{shown(folder)} could be read as {' or '.join(forms)}; --format says which.")
    if forms:
        return forms[0]
    return "imagefolder" if split_folders(folder) else "folder"


def _dataset(source: str, kind: str | None, options: SourceOptions) -> Source:
    if is_remote(source):
        raise SourceError(f"{shown(source)}: saved data sets are read from local disks.")
    root = options.image_root or source
    if kind == "folder" and any((Path(source) / name).is_file() for name in SAVED_FILES):
        return saved(source, options, root)
    parts = _parts_of_split(source, _parts(source, kind, (".arrow",)), options.split)
    return arrow_parts(source, parts, replace(options, split=None), root)


def _parts(source: str, kind: str | None, suffixes: tuple[str, ...]) -> list[str]:
    """The files of a source with one or several parts, in order of name."""
    if kind == "file":
        return [source]
    if kind == "folder":
        found = [joined(source, e.name) for e in entries(source) if not e.is_folder]
    elif has_wildcard(source):
        root, pattern = split_pattern(source)
        found = [joined(root, name) for name in matches(root, pattern)]
    else:
        names = shard_names(source)
        missing = [name for name in names if kind_of(name) != "file"]
        if missing:
            raise SourceError(
                f"{len(missing)} of {counted(len(names), 'shard')} cannot be found: {shown(missing[0])}."
            )
        return names
    found = [name for name in found if name.lower().endswith(suffixes)]
    if not found:
        raise SourceError(f"There are no files {' or '.join(suffixes)} in {shown(source)}.")
    return sorted(found, key=os.fsencode)


def _parts_of_split(source: str, parts: Sequence[str], split: str | None) -> list[str]:
    """The parts of one split, if their names tell the split, as the hub's do. Raises SourceError."""
    splits = [match[1] if (match := _SPLIT_PART.fullmatch(os.path.basename(part))) else "" for part in parts]
    if split is None and len(set(splits)) < 2:
        return list(parts)
    if split is None or split not in splits:
        asked = "has several splits" if split is None else f'has no split "{split}"'
        raise SourceError(f"{shown(source)} {asked}; its parts are of {_named(splits)} (--split).")
    return [part for part, one in zip(parts, splits, strict=True) if one == split]


def _named(splits: Iterable[str]) -> str:
    return listed(sorted({split for split in splits if split})) or "none"


def own_folders(source: str, options: SourceOptions) -> tuple[Path, ...]:
    """A source's local folders: its own, and its image root. Does not read them."""
    place = place_of(source)
    places = [] if is_remote(place) else [_own_folder(place)]
    if options.image_root is not None and not is_remote(options.image_root):
        places.append(os.path.abspath(options.image_root))
    return tuple(map(Path, places))


def _own_folder(source: str) -> str:
    if os.path.isdir(source):
        return source
    return split_pattern(source)[0] if has_wildcard(source) else parent(source)
