"""Models that are converted once and kept in the user's cache folder; converts nothing itself.

Each has its own folder, with the model folder, the work folder of an unfinished conversion, the record of how
it is made, and the log of its conversion.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import ValidationError

from captionmill.cache import cache_folder
from captionmill.errors import CaptionmillError
from contract.base import Contract
from contract.model_folder import MANIFEST_JSON, FolderManifest
from demo.samples import MODEL_FOLDER
from model_prep.settings import PRESETS, PrepSettings
from model_prep.verified import VERIFICATION_JSON, Verification

MODELS: Final = "models"
MODEL: Final = "model"
RECORD: Final = "kept.json"
LOG: Final = "convert.log"
LOCK: Final = "lock"
USED: Final = "used"
DEMO: Final = "demo"
"""Name of the small model that ships with the program."""
FOLDER_VERSION: Final[int] = FolderManifest.model_fields["version"].default
KEY_DIGITS: Final = 8
"""Hexadecimal digits of a recipe's hash in a name."""
NO_NAME: Final = re.compile(r"[^A-Za-z0-9._-]+")
"""Characters that a name does not have; a hyphen replaces them."""
_held: Final[list[int]] = []
"""File descriptors whose locks mark models as used until this process ends."""

State = Literal["ready", "unfinished", "damaged"]


class ModelError(CaptionmillError):
    """A kept model cannot be used, made or removed as asked."""


class Recipe(Contract):
    """All that a kept model is made from. Equal recipes are one kept model."""

    source: str
    """Hub id, or resolved path of a checkpoint folder."""
    revision: str | None = None
    """Revision of a hub id, as given."""
    files: dict[str, tuple[int, int]] | None = None
    """Files of a checkpoint folder: name → (bytes, time of change in ns)."""
    settings: PrepSettings = PrepSettings()
    name: str | None = None
    calibration: str | None = None
    chat_template: str | None = None
    """Text of a template file, or name of a conversation."""
    vision_tower: str | None = None
    """Hub id, or resolved path of a checkpoint folder."""
    vision_tower_files: dict[str, tuple[int, int]] | None = None
    """Files of a vision tower's folder, as in `files`."""
    allow_untested: bool = False
    folder_version: int = FOLDER_VERSION

    @property
    def is_folder(self) -> bool:
        return self.files is not None

    def kept_name(self) -> str:
        """The names of source and preset (or formats), and the recipe's hash."""
        source = Path(self.source).name if self.is_folder else self.source.replace("/", "--")
        presets = (name for name, settings in PRESETS.items() if settings == self.settings)
        kind = next(presets, self.settings.format_name)
        key = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:KEY_DIGITS]
        return f"{plain_name(self.name or source)}-{kind}-{key}"


class Record(Contract):
    """A recipe, and the options that make it."""

    recipe: Recipe
    options: tuple[str, ...] = ()
    """Options of `python -m model_prep convert`."""


def plain_name(text: str) -> str:
    return NO_NAME.sub("-", text).strip("-.") or MODEL


def files_of(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file, which tell a changed folder without reading its files."""
    stats = {path.name: path.stat() for path in sorted(checkpoint.iterdir()) if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


class KeptModel:
    """A kept model, which may not be made yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.model_folder = folder / MODEL
        self.log = folder / LOG

    def record(self) -> Record | None:
        """How it is made; None if that is missing or unreadable."""
        try:
            return Record.model_validate_json((self.folder / RECORD).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def manifest(self) -> FolderManifest | None:
        """Its model folder's manifest; None if that is missing or unreadable."""
        try:
            return FolderManifest.model_validate_json((self.model_folder / MANIFEST_JSON).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def verification(self) -> Verification | None:
        try:
            return Verification.model_validate_json((self.model_folder / VERIFICATION_JSON).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def state(self) -> State:
        """Ready: the model folder has all files in their published size."""
        if self.manifest() is None:
            return "damaged" if self.model_folder.exists() else "unfinished"
        return "damaged" if self.record() is None else self._looked_at()

    def _looked_at(self) -> State:
        manifest = self.manifest()
        assert manifest is not None
        for name, file in manifest.files.items():
            path = self.model_folder / name
            if not path.is_file() or path.stat().st_size != file.size_bytes:
                return "damaged"
        return "ready"

    def size_bytes(self) -> int:
        """Size on disk, including an unfinished conversion."""
        stats = {stat.st_ino: stat.st_size for stat in map(os.lstat, self._paths())}
        return sum(stats.values())

    def last_used(self) -> datetime | None:
        try:
            return datetime.fromtimestamp((self.folder / USED).stat().st_mtime).astimezone()
        except FileNotFoundError:
            return None

    def write(self, record: Record) -> None:
        """Write the record."""
        draft = self.folder / f"{RECORD}.partial"
        draft.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.replace(self.folder / RECORD)

    @contextmanager
    def alone(self, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the model's lock, to make or remove it.

        If another command holds it: call `on_wait` and wait, or raise ModelError without `on_wait`.
        """
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    if on_wait is None:
                        raise ModelError(f"Another command is converting {self.name} now.") from None
                    on_wait()
                    fcntl.lockf(descriptor, fcntl.LOCK_EX)
                if self._is_lock(descriptor):
                    self._sweep()
                    yield
                    return
                # The other command has removed the folder.
            finally:
                os.close(descriptor)

    def hold(self) -> None:
        """Mark it as used until this process ends. Raises ModelError while it is being removed."""
        descriptor = os.open(self.folder / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ModelError(f"{self.name} is being removed; the same command makes it again.") from None
        os.utime(descriptor)
        _held.append(descriptor)

    def remove(self) -> None:
        """Remove its folder. Raises ModelError if a command makes or uses it."""
        with self.alone():
            descriptor = os.open(self.folder / USED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(self.folder)
            except BlockingIOError:
                raise ModelError(
                    f"{self.name} is used by a command that is running: end that one first."
                ) from None
            finally:
                os.close(descriptor)

    def forget_if_empty(self) -> None:
        """Remove the folder if no conversion was begun; hold the lock."""
        if not self.model_folder.exists() and not any(self.folder.glob(f".{MODEL}.*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is_lock(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.folder / LOCK))
        except FileNotFoundError:
            return False

    def _sweep(self) -> None:
        """Remove the remains of a conversion that was killed while publishing."""
        for kind in ("partial", "replaced"):
            for left in self.folder.glob(f".{MODEL}.*.{kind}"):
                shutil.rmtree(left, ignore_errors=True)

    def _paths(self) -> Iterator[Path]:
        return (path for path in self.folder.rglob("*") if path.is_file())


class ShippedModel(KeptModel):
    """The demo model, which is part of the program and is neither converted nor removed."""

    def __init__(self) -> None:
        super().__init__(MODEL_FOLDER)
        self.name = DEMO
        self.model_folder = MODEL_FOLDER

    def state(self) -> State:
        return "damaged" if self.manifest() is None else self._looked_at()

    def remove(self) -> None:
        raise ModelError(f"{DEMO} is part of the program and is not removed.")


def kept_models() -> list[KeptModel]:
    """All kept models, sorted by name."""
    parent = cache_folder() / MODELS
    if not parent.is_dir():
        return []
    return [KeptModel(folder) for folder in sorted(parent.iterdir()) if folder.is_dir()]


def kept_as(name: str) -> KeptModel | None:
    """The kept model of this name; None if there is none."""
    return next((kept for kept in kept_models() if kept.name == name), None)


def kept_for(recipe: Recipe) -> KeptModel:
    """The kept model of `recipe`, which may not be made yet."""
    return KeptModel(cache_folder() / MODELS / recipe.kept_name())
