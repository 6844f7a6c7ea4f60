"""Checks a published model folder: files, versions and ports; needs no torch unless given a checkpoint."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

import openvino
from pydantic import ValidationError

from contract.model_folder import (
    ATTENTION_MASK,
    BEAM_IDX,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LANGUAGE_XML,
    LOGITS,
    MANIFEST_JSON,
    PIXEL_VALUES,
    POSITION_IDS,
    TEXT_XML,
    VISION_XML,
    FolderManifest,
)
from model_prep.refusal import ConversionError

INPUTS: Final = {
    VISION_XML: {PIXEL_VALUES},
    TEXT_XML: {INPUT_IDS},
    LANGUAGE_XML: {ATTENTION_MASK, POSITION_IDS, INPUTS_EMBEDS, BEAM_IDX},
}


@dataclass(frozen=True)
class Check:
    """One check and its outcome."""

    what: str
    outcome: Literal["ok", "failed", "differs"]
    """differs: not as when the folder was made, but no fault."""
    detail: str


def check_folder(
    folder: Path, checkpoint: str | None, revision: str | None, vision_tower: str | None = None
) -> list[Check]:
    """Check a published folder, and compare it with `checkpoint` if given.

    `vision_tower` is for a checkpoint in LLaVA's own layout. Raises ConversionError if folder or checkpoint
    cannot be read.
    """
    manifest = _read_manifest(folder)
    checks = [*_check_hashes(folder, manifest), *_check_versions(manifest)]
    if any(check.outcome == "failed" for check in checks):
        return checks
    checks += [_check_ports(folder, xml) for xml in INPUTS]
    if checkpoint is not None and all(check.outcome != "failed" for check in checks):
        # This import needs torch.
        from model_prep.check_parity import check_parity

        checks.append(check_parity(folder, manifest, checkpoint, revision, vision_tower))
    return checks


def _read_manifest(folder: Path) -> FolderManifest:
    path = folder / MANIFEST_JSON
    if not path.is_file():
        raise ConversionError(f"{folder} is no published model folder: it has no {MANIFEST_JSON}.")
    try:
        return FolderManifest.model_validate_json(path.read_bytes())
    except ValidationError as invalid:
        raise ConversionError(f"{path} is no manifest: {invalid.errors()[0]['msg']}.") from None


def _check_hashes(folder: Path, manifest: FolderManifest) -> Iterator[Check]:
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield Check(name, "failed", "is missing")
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            yield Check(name, "failed", "is not what was published")
    yield Check("files", "ok", f"{len(manifest.files)} were looked at")


def _check_versions(manifest: FolderManifest) -> Iterator[Check]:
    for package, made_with in manifest.made_with.items():
        try:
            here = version(package)
        except PackageNotFoundError:
            here = "none"
        same = here == made_with
        yield Check(package, "ok" if same else "differs", f"made with {made_with}, here is {here}")


def _check_ports(folder: Path, xml: str) -> Check:
    try:
        model = openvino.Core().read_model(folder / xml)
    except RuntimeError as error:
        return Check(xml, "failed", f"cannot be read: {next(iter(str(error).splitlines()), '')}")
    inputs = {port.any_name for port in model.inputs}
    if inputs != INPUTS[xml]:
        return Check(xml, "failed", f"has inputs {sorted(inputs)} instead of {sorted(INPUTS[xml])}")
    if xml == LANGUAGE_XML and not any(LOGITS in port.get_names() for port in model.outputs):
        return Check(xml, "failed", f"has no output {LOGITS}")
    return Check(xml, "ok", "has the ports of a model folder")
