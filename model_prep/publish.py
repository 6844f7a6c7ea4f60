"""Publishes a finished model folder by one rename; knows nothing about models."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from contract.model_folder import MANIFEST_JSON, FolderFile, FolderManifest
from model_prep.refusal import ConversionError

ABOUT_THE_MODEL = ("verification.json", "verification.md")
"""Files that are not part of the model id's digest: they contain times, which differ in each conversion."""
ID_DIGITS = 12
FOLDER_MODE = 0o755


def require_place(out: Path, *, overwrite: bool) -> None:
    """Raise ConversionError if `out` is a file, or a folder that is not empty without `overwrite`."""
    if out.exists() and not out.is_dir():
        raise ConversionError(f"{out} exists and is not a folder.")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ConversionError(f"{out} is not empty; --overwrite replaces it.")


def publish(
    out: Path, folders: Sequence[Path], describe: Callable[[dict[str, FolderFile], str], FolderManifest]
) -> FolderManifest:
    """Publish all files of `folders` and the manifest as `out`, by one rename; replaces what was in it.

    `describe` makes the manifest from the files and the digest of those that determine answers.
    """
    with staged(out) as stage:
        for folder in folders:
            for path in folder.iterdir():
                if not path.name.startswith("."):
                    _link(path, stage / path.name)
        files = {path.name: _describe(path) for path in sorted(stage.iterdir())}
        decisive = "".join(
            f"{file.sha256}  {name}\n" for name, file in files.items() if name not in ABOUT_THE_MODEL
        )
        manifest = describe(files, hashlib.sha256(decisive.encode()).hexdigest()[:ID_DIGITS])
        (stage / MANIFEST_JSON).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into. It becomes `out` after the block, or is removed on error."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        yield stage
        stage.chmod(FOLDER_MODE)
        _replace(out, stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _link(path: Path, place: Path) -> None:
    """Link the file, or copy it where links are not possible."""
    try:
        place.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, place)


def _describe(path: Path) -> FolderFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return FolderFile(size_bytes=path.stat().st_size, sha256=digest.hexdigest())


def _replace(out: Path, stage: Path) -> None:
    """Rename `stage` to `out`. The old `out` is moved aside first, and back if the rename fails."""
    if not out.exists():
        stage.rename(out)
        return
    aside = stage.with_suffix(".replaced")
    out.rename(aside)
    try:
        stage.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside)
