"""Opens and lists files and folders, on local disks or through fsspec; knows nothing of rows."""

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
"""Unpacked size that every gzip file may have."""
MOST_RATIO: Final = 200
"""Largest ratio of unpacked to packed bytes beyond that. Manifests have 10 to 50, zeros 1000."""
IMAGE_SUFFIXES: Final = HEIC_SUFFIXES | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
}
"""Suffixes of all images that a worker may be able to decode."""
SYSTEM_FOLDERS: Final = frozenset(
    {
        *("__macosx", "@eadir", "$recycle.bin", "#recycle", "@recycle", "lost+found"),
        *("system volume information", ".ipynb_checkpoints"),
    }
)
"""Names, in lower case, of folders that programs make, for thumbnails, deleted files and the like."""
IN_ZIP: Final = "!/"
"""Separator between an archive's name and a member's."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_GLOB: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Entry:
    """One entry of a folder."""

    name: str
    is_folder: bool
    is_link: bool = False

    @property
    def is_hidden(self) -> bool:
        return self.name.startswith(".")


@dataclass
class PassedOver:
    """Entries that a search for a pattern saw and skipped."""

    hidden: int = 0
    """Number of names that match except for the dot that they begin with."""
    links: int = 0
    """Number of links to folders that the pattern goes into."""
    other_links: int = 0
    """Number of links to folders that the pattern does not go into."""
    system: int = 0
    """Number of SYSTEM_FOLDERS that the pattern does not name itself."""
    folders: list[str] = field(default_factory=list)
    """Folders that the pattern does not go into, as paths below the root."""


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files that this environment can use."""
    return IMAGE_SUFFIXES if reads_heic() else IMAGE_SUFFIXES - HEIC_SUFFIXES


def scheme_of(source: str) -> str | None:
    """The scheme of a URL in lower case; None for a path."""
    match = _SCHEME.match(source)
    return match[1].lower() if match else None


def local_path(url: str) -> str:
    """The path of a file:// URL, with percent escapes decoded. Raises SourceError for another host."""
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(f"{quoted(url)} is on another host; a file: URL has three slashes.")
    # urlsplit would end the path at "?" or "#", which file names may have.
    path = url[len("file://") + len(parts.netloc) :]
    return urllib.parse.unquote(path, errors="surrogateescape")


def is_remote(source: str) -> bool:
    return scheme_of(source) is not None


def is_system_folder(path: str) -> bool:
    """Whether a path goes through one of SYSTEM_FOLDERS."""
    return any(folder.lower() in SYSTEM_FOLDERS for folder in path.split("/"))


def has_wildcard(source: str) -> bool:
    """Whether it is a pattern, and not an existing file of this name."""
    if not _GLOB.search(source):
        return False
    scheme = scheme_of(source)
    if scheme is not None:
        return scheme not in ("http", "https")  # where a question mark begins a query
    return not os.path.lexists(source)


def parent(source: str) -> str:
    """The folder of a file; for a local file, with links resolved."""
    if is_remote(source):
        return source.rpartition("/")[0]
    return str(Path(source).resolve().parent)


def shared_folder(folders: Sequence[str]) -> str:
    """The innermost folder above all of these paths or URLs."""
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
    """`folder` or `file`; None if it does not exist."""
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
    """Turns errors of reading into a SourceError that names `source`."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise SourceError(f"{shown(source)} cannot be read: {reason}.") from None


@contextmanager
def _asking(source: str) -> Iterator[None]:
    """The same for a remote store, which may raise any exception."""
    try:
        with reading(source):
            yield
    except SourceError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(f"{shown(source)} cannot be read: {reason}") from None


def open_raw(source: str) -> IO[bytes]:
    """The file's bytes, seekable; `ARCHIVE.zip!/NAME` is a text member of an archive."""
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
    """The file's bytes, those of a gzip file (.gz, .tgz) unpacked; offsets count unpacked bytes."""
    if not source.lower().endswith((".gz", ".tgz")):
        return open_raw(source)
    packed = open_raw(source)
    return cast(IO[bytes], io.BufferedReader(_Unpacked(packed, shown(source)), UNPACKED_AT_ONCE_BYTES))


class _Unpacked(io.RawIOBase):
    """A gzip file's unpacked bytes. Raises SourceError if they are out of proportion to the packed ones."""

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
            # In pieces, as a reader may ask for a gigabyte at once.
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
    """A folder's entries in order of name; hidden names only with `hidden`."""
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
    """Whether it is a folder; a link that leads in a circle is none, and raises nothing."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def count_below(
    folders: list[str], wanted: Callable[[str], bool], excepted: frozenset[str], most: int
) -> tuple[int, bool]:
    """Number of files with a `wanted` name in and below local `folders`, and whether all were counted.

    It stops after `most` names. It skips hidden names, links to folders, SYSTEM_FOLDERS, the folders
    `excepted` and unreadable ones.
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
    """Relative paths of files below `root` that match the pattern's segments.

    `**` stands for any number of folders. A folder's files come in order of name, before those of its
    subfolders. Hidden names do not match, and links to folders are not followed; `passed` counts both. The
    names of one folder per level are in memory.
    """
    yield from _walk(root, "", pattern, _open_states({0}, pattern), passed or PassedOver())


def _open_states(states: set[int], pattern: tuple[str, ...]) -> frozenset[int]:
    """`states`, and those reached if `**` stands for no folder."""
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
    """Whether a name matches the segment, or is equal to it."""
    return name == segment or fnmatchcase(name, segment)


def split_pattern(source: str) -> tuple[str, tuple[str, ...]]:
    """The folder in which a pattern begins, and the pattern's segments below it."""
    scheme = _SCHEME.match(source)
    lead, rest = (scheme[0], source[scheme.end() :]) if scheme else ("", source)
    segments = rest.split("/")
    first = next(place for place, segment in enumerate(segments) if _GLOB.search(segment))
    if not scheme:
        # A folder's own name may have pattern characters.
        while first < len(segments) - 1 and os.path.isdir("/".join(segments[: first + 1])):
            first += 1
    root = "/".join(segments[:first])
    if not scheme:
        root = root or ("/" if source.startswith("/") else ".")
    return lead + root, tuple(segment for segment in segments[first:] if segment)
