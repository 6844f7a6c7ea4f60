"""Writes captions into text files beside the images, never over a person's edit; knows no other sink."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.job import ImagePath
from producer.rows import AnsweredRow, RowImage
from producer.sinks.answers import caption
from producer.sinks.columns import printable
from producer.sinks.files import sync_folder, temporary_beside
from producer.sinks.sidecar_record import Sidecar, SidecarRecord, sha256
from producer.sinks.sink import LeftAlone, Sink, SinkError, SinkOptions
from producer.sources.files import IMAGE_SUFFIXES

SIDECAR_MAX_BYTES: Final = 16 * 2**20

FOREIGN: Final = "a file is there that this run folder did not write"
EDITED: Final = "it was edited since this run folder wrote it"
JOINED: Final = "it also holds text that this run folder did not write"
SHARED: Final = (
    "another image of its folder has the same name but for the extension; "
    "--sidecar-name full gives each a sidecar"
)
TWICE: Final = "the same image is in another row of the run"
LINK: Final = "a symbolic link is there"
NO_FILE: Final = "its image is no local file"
NO_FOLDER: Final = "the image's folder is not there"
OUTSIDE: Final = "it would be outside the folder of the images"
TOO_LARGE: Final = "the file there is no caption: it is larger than 16 MiB, or no regular file"


REFUSED_BY_SYSTEM: Final = (
    errno.EACCES,
    errno.EEXIST,
    errno.EILSEQ,
    errno.EINVAL,
    errno.ENOENT,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
)
"""Errors that concern one file, unlike a full disk."""


class _LeaveAloneError(Exception):
    """The sidecar rightly stays as it is, for this reason."""


class _CannotError(Exception):
    """The sidecar cannot be written, for this reason."""


@dataclass(frozen=True)
class _Plan:
    path: Path
    content: bytes
    before: bytes | None
    """The file's content when the plan was made; None if there was no file."""
    first: bool
    """Whether no text of the run was there."""
    row: AnsweredRow


class SidecarSink(Sink):
    """`img.txt`, or `img.png.txt`, for `img.png`, beside it or under `root` in the same folders.

    Each file is checked for a person's edit just before it is written. It is recorded before it is written
    and replaced as a whole, so that after a crash the next attempt knows an edit from its own text.
    """

    def __init__(self, name: str, root: Path | None, record: Path, options: SinkOptions) -> None:
        """`record` is the path of the SidecarRecord."""
        if options.caption_extension.lower() in IMAGE_SUFFIXES:
            raise SinkError(f'The caption extension "{options.caption_extension}" is one of images.')
        super().__init__(name)
        self._root = root
        self._options = options
        self._record_path = record
        self._record: SidecarRecord | None = None

    def resume(self, place: dict[str, Any] | None) -> None:
        """Sidecars that were written stay; the same rows find their own text again and go on."""
        self.close()
        self.left_alone = LeftAlone.from_place(place)
        self._record = record = SidecarRecord(self._record_path)
        with record.transaction():
            if place is None:
                record.begin_run()
            for sidecar in record.unsettled():
                path = Path(os.fsdecode(sidecar.path))
                with suppress(OSError):
                    temporary_beside(path).unlink()
                try:
                    content = _content(path)
                except (_CannotError, OSError):
                    continue
                if content is not None and sha256(content) == sidecar.pending:
                    record.settle(sidecar.path)

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        record = self._opened()
        plans: list[_Plan] = []
        with record.transaction():
            for row in rows:
                with self._noted(row):
                    plan = self._plan(row, record)
                    plans += [plan] if plan is not None else []
        written = {plan.path for plan in plans if self._carry_out(plan)}
        for folder in {path.parent for path in written}:
            sync_folder(folder)
        with record.transaction():
            for plan in plans:
                if plan.path in written:
                    record.settle(os.fsencode(plan.path))
                elif plan.first:
                    record.remove(os.fsencode(plan.path))
        return {"left_alone": self.left_alone.to_place()}

    def close(self) -> None:
        if self._record is not None:
            self._record.close()
            self._record = None

    def _opened(self) -> SidecarRecord:
        assert self._record is not None, "resume comes first"
        return self._record

    def _plan(self, row: AnsweredRow, record: SidecarRecord) -> _Plan | None:
        """Record what is about to be written. None if it is there already."""
        text, reason = caption(row, self._options)
        if text is None:
            raise _LeaveAloneError(reason)
        if not isinstance(row.image, ImagePath) or not row.image.to_path().is_absolute():
            raise _CannotError(NO_FILE)
        image = row.image.to_path()
        path = self._target(image, row.name)
        # Several paths may lead to one file.
        image = Path(os.path.realpath(image.parent), image.name)
        known = record.get(os.fsencode(path))
        if known is not None:
            _refuse_another_rows(known, os.fsencode(image), row.position)
        if self._options.sidecar_policy == "skip" and path.is_symlink() and path.is_file():
            raise _LeaveAloneError(FOREIGN)
        before = _content(path)
        base, written = self._base(before, known)
        part = self._part(text.encode(), base)
        joined = base is not None and self._options.sidecar_policy != "overwrite"
        content = part
        if joined:
            assert base is not None
            content = base + part if self._options.sidecar_policy == "append" else part + base
        sidecar = Sidecar(
            path=os.fsencode(path),
            image=os.fsencode(image),
            position=row.position,
            base=base,
            part=part,
            pending=sha256(content),
            written=written,
        )
        if before == content and written is not None:
            record.put(sidecar._replace(written=sidecar.pending))
            return None
        record.put(sidecar)
        return _Plan(path, content, before, written is None, row)

    def _target(self, image: Path, name: str | None) -> Path:
        path, tree = _place(image, name, self._root, self._options)
        if self._root is None:
            if not path.parent.is_dir():
                raise _CannotError(NO_FOLDER)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_within(path.parent, tree):
            raise _CannotError(OUTSIDE)
        return Path(os.path.realpath(path.parent), path.name)

    def _base(self, before: bytes | None, known: Sidecar | None) -> tuple[bytes | None, bytes | None]:
        """A person's text in the sidecar, and the hash of the content if it has the run's text."""
        policy = self._options.sidecar_policy
        if before is None:
            return None, None
        if known is None or known.is_untouched(before):
            if policy == "skip":
                raise _LeaveAloneError(FOREIGN)
            return before, None
        if known.is_ours(before):
            base = None if before == known.part else known.base
            if policy == "skip" and base is not None:
                raise _LeaveAloneError(JOINED)
            return base, sha256(before)
        if known.base is not None and known.part:
            # A person may have edited around the run's text, which is at one end of the file.
            if policy == "append" and before.endswith(known.part):
                return before.removesuffix(known.part), sha256(before)
            if policy == "prepend" and before.startswith(known.part):
                return before.removeprefix(known.part), sha256(before)
        raise _LeaveAloneError(EDITED)

    def _part(self, text: bytes, base: bytes | None) -> bytes:
        """The run's text, with a separator from a person's text, or the file's end."""
        separator = self._options.separator.encode()
        end = b"\n" if self._options.final_newline and not text.endswith(b"\n") else b""
        if not base or self._options.sidecar_policy not in ("append", "prepend"):
            return text + end
        if self._options.sidecar_policy == "append":
            return text + end if base.endswith(b"\n") else separator + text + end
        return text + separator

    def _carry_out(self, plan: _Plan) -> bool:
        """Write the sidecar, unless it was changed in the meantime. Whether it was written."""
        temporary = temporary_beside(plan.path)
        done = False
        try:
            with self._noted(plan.row):
                temporary.unlink(missing_ok=True)
                with temporary.open("xb") as file:
                    if plan.before is not None:
                        os.fchmod(file.fileno(), stat.S_IMODE(plan.path.lstat().st_mode))
                    file.write(plan.content)
                    file.flush()
                    os.fsync(file.fileno())
                if _content(plan.path) != plan.before:
                    raise _LeaveAloneError(EDITED)
                temporary.replace(plan.path)
                done = True
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return done

    @contextmanager
    def _noted(self, row: AnsweredRow) -> Iterator[None]:
        """Notes an obstacle to one sidecar, and ends the block."""
        try:
            yield
        except _LeaveAloneError as reason:
            self.left_alone.note(str(reason), printable(row.name or row.id))
        except _CannotError as reason:
            self.left_alone.miss(row, str(reason))
        except OSError as error:
            if error.errno not in REFUSED_BY_SYSTEM:
                raise
            self.left_alone.miss(row, f"the system refuses it ({error.strerror})")


class Captioned:
    """Finds images whose sidecar --sidecars skip leaves alone, before anything is asked."""

    def __init__(self, root: Path | None, record: Path, options: SinkOptions) -> None:
        """As for SidecarSink; does not make a record."""
        self._root = root
        self._options = options
        self._record = SidecarRecord(record) if record.exists() else None

    def has(self, image: RowImage | None, name: str | None) -> bool:
        """Whether there is a sidecar that this run folder did not write."""
        if not isinstance(image, ImagePath):
            return False
        try:
            path, _ = _place(image.to_path(), name, self._root, self._options)
            path = Path(os.path.realpath(path.parent), path.name)
            is_there = path.is_file()
        except (_CannotError, OSError, ValueError):
            return False
        return is_there and (self._record is None or self._record.get(os.fsencode(path)) is None)

    def close(self) -> None:
        if self._record is not None:
            self._record.close()


def _place(image: Path, name: str | None, root: Path | None, options: SinkOptions) -> tuple[Path, Path]:
    """The sidecar's path, and the folder that it must be within."""
    file = (image.name if options.sidecar_name == "full" else image.stem) + options.caption_extension
    if root is None:
        return image.parent / file, _folder_of_source(image, name)
    folder = Path(os.path.normpath(root / (name or image.name))).parent
    if not folder.is_relative_to(root) or not _is_within(folder, root):
        raise _CannotError(OUTSIDE)
    return folder / file, root


def _refuse_another_rows(known: Sidecar, image: bytes, position: int) -> None:
    if known.image == image:
        if known.position not in (None, position):
            raise _CannotError(TWICE)
    elif known.position is not None or os.path.lexists(known.image):
        raise _CannotError(SHARED)


def _folder_of_source(image: Path, name: str | None) -> Path:
    """The folder that the row's name is relative to; else the image's folder."""
    inner = Path(name or "").parts
    outer = image.parts
    if inner and len(inner) < len(outer) and outer[-len(inner) :] == inner:
        return Path(*outer[: -len(inner)])
    return image.parent


def _is_within(folder: Path, tree: Path) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(tree))


def _content(path: Path) -> bytes | None:
    """The sidecar's content; None if there is no file. Raises _CannotError."""
    try:
        found = path.stat(follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise _CannotError(LINK)
        if not stat.S_ISREG(found.st_mode) or found.st_size > SIDECAR_MAX_BYTES:
            raise _CannotError(TOO_LARGE)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
