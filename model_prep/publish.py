"""Puts a finished model folder in its place in one step or not at all; knows nothing of models."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.model_folder import MANIFEST_JSON, FolderFile, FolderManifest, WeightFormat
from model_prep.refusal import ConversionError

BLOCK_BYTES = 1 << 20
SPACE_MARGIN_BYTES = 32 << 20
"""For graphs, tokenizer and configs, beside the weights."""
ID_DIGITS = 12
FOLDER_MODE = 0o755


def require_place(out: Path, *, overwrite: bool) -> None:
    """Raise ConversionError if `out` is a file, or a folder that is not empty without `overwrite`."""
    if out.exists() and not out.is_dir():
        raise ConversionError(f"{out} exists and is not a folder.")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ConversionError(f"{out} is not empty; --overwrite replaces it.")


def require_space(out: Path, weight_bytes: int) -> None:
    """Raise ConversionError if the disk of `out` has no room for `weight_bytes` of weights."""
    existing = next(folder for folder in out.absolute().parents if folder.is_dir())
    needed, free = weight_bytes + SPACE_MARGIN_BYTES, shutil.disk_usage(existing).free
    if free < needed:
        raise ConversionError(
            f"{out} needs {needed / 1e9:.1f} GB of disk space and {free / 1e9:.1f} GB are free."
        )


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into. On leaving it becomes `out`; if anything is raised it goes."""
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


def write_manifest(
    folder: Path, *, name: str, source: str, weight_format: WeightFormat, made_with: dict[str, str]
) -> FolderManifest:
    """Hash every file of `folder` and write captionmill.json beside them."""
    files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
    content = "".join(f"{file.sha256}  {path}\n" for path, file in files.items())
    digest = hashlib.sha256(content.encode()).hexdigest()[:ID_DIGITS]
    manifest = FolderManifest(
        model=f"{name}-{weight_format}-{digest}",
        source=source,
        weight_format=weight_format,
        made_with=made_with,
        files=files,
    )
    (folder / MANIFEST_JSON).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _describe(path: Path) -> FolderFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return FolderFile(size_bytes=path.stat().st_size, sha256=digest.hexdigest())


def _replace(out: Path, stage: Path) -> None:
    """Rename `stage` to `out`. What was in `out` is moved aside first, and back if the rename fails."""
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
