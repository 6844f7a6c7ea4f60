"""Counts what a source left out, and describes it; reads no folder."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from contract.counting import counted
from contract.installing import install_line
from producer.sources.heic import EXTRA, HEIC_SUFFIXES, reads_heic

CAPTION_SUFFIXES: Final = (".txt", ".caption")
NO_SUFFIX: Final = ""
OTHER: Final = "other"
"""Stands for endings that are no suffix, as in `scan.0001`, and for suffixes beyond MOST_SUFFIXES."""
MOST_SUFFIXES: Final = 100
LONGEST_SUFFIX: Final = 10
MOST_NAMED: Final = 8
_COUNTS: Final = ("hidden", "links", "system", "disguised", "in_subfolders")


@dataclass
class Skipped:
    """Numbers of files and folders that are not among a source's rows."""

    files: Counter[str] = field(default_factory=Counter)
    """Suffix with its dot, in lower case → number of files."""
    hidden: int = 0
    """Files and folders whose names begin with a dot."""
    links: int = 0
    """Links to folders, which are not followed."""
    system: int = 0
    """Folders as in producer.sources.files' SYSTEM_FOLDERS, or files in them."""
    disguised: int = 0
    """Those of `files` that are images by their first bytes, as far as they were opened."""
    in_subfolders: int = 0
    """Images in subfolders, which --recursive would read."""
    more_below: bool = False
    """Whether there may be more of those, as not all were counted."""

    def __bool__(self) -> bool:
        return any((self.files, self.hidden, self.links, self.system, self.in_subfolders, self.more_below))

    def note_file(self, suffix: str) -> None:
        suffix = suffix.lower()
        named = suffix[1:].isalnum() and not suffix[1:].isdigit() and len(suffix) <= LONGEST_SUFFIX
        room = suffix in self.files or len(self.files) < MOST_SUFFIXES
        self.files[suffix if suffix == NO_SUFFIX or (named and room) else OTHER] += 1

    def add(self, other: "Skipped") -> None:
        self.files.update(other.files)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.more_below |= other.more_below

    def fields(self) -> dict[str, Any]:
        """JSON-ready, without zeros."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        found: dict[str, Any] = {"files": dict(self.files.most_common())} if self.files else {}
        found |= {name: count for name, count in counts.items() if count}
        return found | ({"more_below": True} if self.more_below else {})

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The counts from `fields`."""
        return cls(**{**fields, "files": Counter(fields.get("files", {}))})

    def told(self) -> str:
        """A clause as `5 files skipped: 3 .heic, 1 .mp4, 1 .docx; 12 images in subfolders (--recursive)`."""
        files = self.files.total()
        if not files:
            return f"Skipped: {'; '.join(self._others())}"
        return "; ".join([f"{counted(files, 'file')} skipped: {self.kinds()}", *self._others()])

    def instead(self) -> str:
        """A sentence, after a blank, on what a source without images has; empty if nothing was skipped."""
        parts = [*([self.kinds()] if self.files else []), *self._others()]
        return f" It holds {'; '.join(parts)}." if parts else ""

    def kinds(self) -> str:
        """The files by suffix: first those that an installation would read, then the most frequent."""
        ordered = sorted(
            (one for one in self.files.items() if one[0] != OTHER),
            key=lambda one: (not _is_installable(one[0]), -one[1], one[0]),
        )
        named = [f"{count} {_kind(suffix)}" for suffix, count in ordered[:MOST_NAMED]]
        rest = self.files[OTHER] + sum(count for _, count in ordered[MOST_NAMED:])
        return ", ".join([*named, *([f"{rest} of other kinds"] if rest else [])])

    def _others(self) -> list[str]:
        parts = []
        if self.disguised:
            parts.append(f"at least {self.disguised} of them are images by their first bytes (--sniff)")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.links:
            parts.append(f"{counted(self.links, 'link')} to folders, not followed")
        if self.system:
            parts.append(f"{self.system} in __MACOSX, @eaDir and the like")
        if self.in_subfolders or self.more_below:
            at_least = "at least " if self.more_below else ""
            parts.append(f"{at_least}{counted(self.in_subfolders, 'image')} in subfolders (--recursive)")
        return parts


def _kind(suffix: str) -> str:
    if suffix == NO_SUFFIX:
        return "without a suffix"
    return f"{suffix} ({install_line(EXTRA)})" if _is_installable(suffix) else suffix


def _is_installable(suffix: str) -> bool:
    """Whether such files could be read if a decoder were installed."""
    return suffix in HEIC_SUFFIXES and not reads_heic()


class Captions:
    """Recognises text files beside images of the same name: captions, which are not counted as skipped.

    Takes the files of one folder after the other, in any order.
    """

    def __init__(self, skipped: Skipped) -> None:
        """`skipped` counts texts that belong to no image."""
        self._skipped = skipped
        self._folder: str | None = None
        self._images: set[str] = set()
        self._texts: list[tuple[str, str]] = []

    def note_image(self, folder: str, name: str) -> None:
        self._enter(folder)
        self._images |= {name, os.path.splitext(name)[0]}

    def note_text(self, folder: str, stem: str, suffix: str) -> None:
        self._enter(folder)
        self._texts.append((stem, suffix))

    def end(self) -> None:
        """After the last file."""
        self._enter(None)

    def _enter(self, folder: str | None) -> None:
        if folder == self._folder:
            return
        for stem, suffix in self._texts:
            if stem not in self._images:
                self._skipped.note_file(suffix)
        self._folder, self._images, self._texts = folder, set(), []
