"""Opens and lists files and folders, local ones or those that fsspec reaches; knows nothing of rows."""

import gzip
import io
import os
import re
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final, cast

from contract.quoting import quoted
from producer.sources.heic import HEIC_SUFFIXES, reads_heic
from producer.sources.refusal import SourceError, library, shown

UNPACKED_AT_ONCE_BYTES: Final = 1 << 18
UNPACKED_FREE_BYTES: Final = 256 * 2**20
"""So much may come of a gzip file however small it is."""
MOST_RATIO: Final = 200
"""Of unpacked to packed bytes beyond that. Lines of a manifest come to 10 to 50, zeros to 1000."""
IMAGE_SUFFIXES: Final = HEIC_SUFFIXES | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
}
"""Of all images that a worker can have what it takes to decode."""
SYSTEM_FOLDERS: Final = frozenset(
    {
        *("__macosx", "@eadir", "$recycle.bin", "#recycle", "@recycle", "lost+found"),
        *("system volume information", ".ipynb_checkpoints"),
    }
)
"""In lower case: of thumbnails, deleted files and the like, which programs and not people put there."""
IN_ZIP: Final = "!/"
"""Between an archive's name and a member's."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_GLOB: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Entry:
    """One name in a folder."""

    name: str
    is_folder: bool
    is_link: bool = False

    @property
    def is_hidden(self) -> bool:
        return self.name.startswith(".")


@dataclass
class PassedOver:
    """What a walk saw of a pattern's folders and did not give."""

    hidden: int = 0
    """Names that would match but for the dot they begin with."""
    links: int = 0
    """To folders that the pattern goes into."""
    other_links: int = 0
    """To folders that the pattern does not go into."""
    system: int = 0
    """Folders as in SYSTEM_FOLDERS that the pattern does not name itself."""
    folders: list[str] = field(default_factory=list)
    """Those that the pattern does not go into, as paths below the root."""


def image_suffixes() -> frozenset[str]:
    """Of the files that a folder of images is read for."""
    return IMAGE_SUFFIXES if reads_heic() else IMAGE_SUFFIXES - HEIC_SUFFIXES


def scheme_of(source: str) -> str | None:
    """The scheme of a URL in lower case; None for a path."""
    match = _SCHEME.match(source)
    return match[1].lower() if match else None


def local_path(url: str) -> str:
    """The path that a file:// URL means, with its percent escapes undone."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(f"{quoted(url)} is on another host; a file: URL has three slashes.")
    # urlsplit would end the path at "?" or "#", which names of files may hold.
    path = url[len("file://") + len(parts.netloc) :]
    return urllib.parse.unquote(path, errors="surrogateescape")


def is_remote(source: str) -> bool:
    return scheme_of(source) is not None


def is_system_folder(path: str) -> bool:
    """Whether a path goes through such a folder."""
    return any(folder.lower() in SYSTEM_FOLDERS for folder in path.split("/"))


def has_wildcard(source: str) -> bool:
    """Whether it is a pattern, and not a file that is really named so."""
    if not _GLOB.search(source):
        return False
    scheme = scheme_of(source)
    if scheme is not None:
        return scheme not in ("http", "https")  # there a question mark begins a query
    return not os.path.lexists(source)


def parent(source: str) -> str:
    """The folder that a file lies in; a local one without links in it."""
    if is_remote(source):
        return source.rpartition("/")[0]
    return str(Path(source).resolve().parent)


def shared_folder(folders: Sequence[str]) -> str:
    """The innermost folder that holds all of these, paths or URLs."""
    split = [folder.split("/") for folder in folders]
    shared = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        shared.append(segments[0])
    return "/".join(shared) or ("/" if shared else "")


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else os.path.join(folder, name)


def _file_system(url: str) -> tuple[Any, str]:
    fsspec = library("fsspec", "remote", f"{shown(url)}")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{shown(url)} cannot be opened: {error}") from None
    return system, path


def kind_of(source: str) -> str | None:
    """`folder`, `file`, or None if there is no such thing."""
    if not is_remote(source):
        path = Path(source)
        return "folder" if path.is_dir() else "file" if path.exists() else None
    with _asking(source):
        system, path_there = _file_system(source)
        if system.isdir(path_there):
            return "folder"
        return "file" if system.exists(path_there) else None


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what goes wrong while reading into a SourceError that names `source`."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(f"{shown(source)} cannot be read: {reason}.") from None


@contextmanager
def _asking(source: str) -> Iterator[None]:
    """The same for a store elsewhere, each of which raises what it likes."""
    try:
        with reading(source):
            yield
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(f"{shown(source)} cannot be read: {reason}") from None


def open_raw(source: str) -> IO[bytes]:
    """The file as it is, seekable; `ARCHIVE.zip!/NAME` is a member of text."""
    archive, inside, member = source.rpartition(IN_ZIP)
    if inside and archive.lower().endswith(".zip"):
        return _zip_member(archive, member)
    if is_remote(source):
        with _asking(source):
            system, path = _file_system(source)
            stream: IO[bytes] = system.open(path, "rb")
            return stream
    with reading(source):
        return open(source, "rb")


def _zip_member(archive: str, name: str) -> IO[bytes]:
    with reading(archive):
        zipped = zipfile.ZipFile(open_raw(archive))
        member = zipped.getinfo(name)
        if member.file_size > UNPACKED_FREE_BYTES:
            raise SourceError(
                f"{shown(archive)}, {quoted(name)}: {member.file_size} bytes are too many for text."
            )
        return zipped.open(member)


def open_plain(source: str) -> IO[bytes]:
    """The file, or what a gzip file (.gz, .tgz) unpacks to; offsets are those of the unpacked bytes."""
    if not source.lower().endswith((".gz", ".tgz")):
        return open_raw(source)
    packed = open_raw(source)
    return cast(IO[bytes], io.BufferedReader(_Unpacked(packed, shown(source)), UNPACKED_AT_ONCE_BYTES))


class _Unpacked(io.RawIOBase):
    """What a gzip file unpacks to, as long as that is in proportion. Raises SourceError."""

    def __init__(self, packed: IO[bytes], name: str) -> None:
        self._packed = packed
        self._file = gzip.GzipFile(fileobj=packed, mode="rb")
        self._name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with reading(self._name):
            # By pieces, as whoever reads may ask for a gigabyte at once.
            size = self._file.readinto(memoryview(buffer)[:UNPACKED_AT_ONCE_BYTES])
        unpacked, packed = self._file.tell(), self._packed.tell()
        if unpacked > UNPACKED_FREE_BYTES and unpacked > MOST_RATIO * packed:
            raise SourceError(
                f"{self._name} unpacks to more than {MOST_RATIO} times its size; if that is as it should be, "
                "unpack it first."
            )
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            self._packed.close()
        super().close()


def entries(folder: str, *, hidden: bool = False) -> list[Entry]:
    """What a folder holds, by name; `hidden` names too, or without them."""
    if is_remote(folder):
        with _asking(folder):
            system, path = _file_system(folder)
            found = [
                Entry(one["name"].rstrip("/").rpartition("/")[2], one["type"] == "directory")
                for one in system.ls(path, detail=True)
                if one["name"].strip("/") != path.strip("/")
            ]
    else:
        with reading(folder), os.scandir(folder) as scanned:
            found = [Entry(one.name, _is_folder(one), one.is_symlink()) for one in scanned]
    given = [entry for entry in found if entry.name and (hidden or not entry.is_hidden)]
    given.sort(key=lambda entry: os.fsencode(entry.name))
    return given


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    """A link in a circle leads to no folder; it is one file that cannot be read, and not the folder's end."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def count_below(
    folders: list[str], wanted: Callable[[str], bool], excepted: frozenset[str], most: int
) -> tuple[int, bool]:
    """How many files of local `folders` and those below have a `wanted` name, and whether all were looked at.

    After `most` names it stops. Hidden names, links to folders, SYSTEM_FOLDERS and the folders `excepted` are
    passed over, and so is what cannot be read.
    """
    count = looked_at = 0
    waiting = list(folders)
    while waiting:
        folder = waiting.pop()
        if folder in excepted:
            continue
        try:
            with os.scandir(folder) as scanned:
                for entry in scanned:
                    looked_at += 1
                    if looked_at > most:
                        return count, False
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name.lower() in SYSTEM_FOLDERS:
                            continue
                        waiting.append(entry.path)
                    elif wanted(entry.name):
                        count += 1
        except OSError:
            continue
    return count, True


def matches(root: str, pattern: tuple[str, ...], passed: PassedOver | None = None) -> Iterator[str]:
    """Files below `root`, as paths relative to it, whose path matches the pattern's segments.

    `**` stands for any number of folders. Files of a folder come by name, before those of its folders. Hidden
    names do not match, and links to folders are not followed; `passed` counts them. Holds the names of one
    folder per level.
    """
    yield from _walk(root, "", pattern, _open_states({0}, pattern), passed or PassedOver())


def _open_states(states: set[int], pattern: tuple[str, ...]) -> frozenset[int]:
    """`states` with those that `**` reaches by standing for no folder."""
    reached = set(states)
    for state in sorted(states):
        while state < len(pattern) and pattern[state] == "**":
            state += 1
            reached.add(state)
    return frozenset(reached)


def _walk(
    root: str, below: str, pattern: tuple[str, ...], states: frozenset[int], passed: PassedOver
) -> Iterator[str]:
    here = entries(joined(root, below) if below else root, hidden=True)
    last = len(pattern) - 1
    for entry in here:
        if not entry.is_folder and last in states and _fits(entry.name, pattern[last]):
            if entry.is_hidden:
                passed.hidden += 1
            else:
                yield below + entry.name
    for entry in here:
        if not entry.is_folder:
            continue
        onward = {
            state if pattern[state] == "**" else state + 1
            for state in states
            if state <= last and (pattern[state] == "**" or _fits(entry.name, pattern[state]))
        }
        goes_in = any(state <= last for state in onward)
        named = any(state <= last and pattern[state] == entry.name for state in states)
        if entry.name.lower() in SYSTEM_FOLDERS and not named:
            passed.system += 1
        elif goes_in and entry.is_hidden:
            passed.hidden += 1
        elif goes_in and entry.is_link:
            passed.links += 1
        elif goes_in:
            yield from _walk(root, f"{below}{entry.name}/", pattern, _open_states(onward, pattern), passed)
        elif entry.is_link:
            passed.other_links += 1
        elif not entry.is_hidden:
            passed.folders.append(below + entry.name)


def _fits(name: str, segment: str) -> bool:
    """Whether a name matches, or is really called so."""
    return name == segment or fnmatchcase(name, segment)


def split_pattern(source: str) -> tuple[str, tuple[str, ...]]:
    """The folder that a pattern begins at, and the segments of the pattern below it."""
    scheme = _SCHEME.match(source)
    lead, rest = (scheme[0], source[scheme.end() :]) if scheme else ("", source)
    segments = rest.split("/")
    first = next(place for place, segment in enumerate(segments) if _GLOB.search(segment))
    if not scheme:
        # A folder may really be called so.
        while first < len(segments) - 1 and os.path.isdir("/".join(segments[: first + 1])):
            first += 1
    root = "/".join(segments[:first])
    if not scheme:
        root = root or ("/" if source.startswith("/") else ".")
    return lead + root, tuple(segment for segment in segments[first:] if segment)
