"""Reads a model folder, refuses an incomplete one, and compiles its parts; knows no image and no prompt."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openvino
from pydantic import ValidationError
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from contract.model_folder import (
    CONFIG_JSON,
    LANGUAGE_XML,
    MANIFEST_JSON,
    PLACE_ROW,
    TEXT_XML,
    VISION_XML,
    FolderFile,
    FolderManifest,
    Packing,
    TileMarks,
    context_tokens,
    side_px,
)
from worker.errors import StartupError
from worker.llava.arrays import FloatArray
from worker.llava.packing import PACKINGS, most_plane_tiles, packing_by_type

GENERATION_CONFIG_JSON = "generation_config.json"


class ModelFolderError(StartupError):
    """The folder holds no model that this worker can run."""


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says of its model, before anything is compiled."""

    path: Path
    model_id: str
    config: PretrainedConfig
    packing: Packing
    image_newline: FloatArray | None
    """(hidden,); None where the packing has none"""
    most_plane_tiles: int | None
    """number of tiles to whose features the grid's are shrunk; None where they never are"""
    eos_token_ids: tuple[int, ...]
    marks: TileMarks | None = None
    """texts between the tiles of an image; only with the packing of tiles"""

    @property
    def context_tokens(self) -> int:
        tokens = context_tokens(self.config.text_config)
        return min(tokens, PLACE_ROW) if self.packing == "grid" else tokens

    @property
    def hidden(self) -> int:
        hidden: int = self.config.text_config.hidden_size
        return hidden

    @property
    def tile_px(self) -> int:
        """Side in px of the tiles that the vision model reads."""
        return side_px(self.config.vision_config, "image_size")

    @property
    def patch_px(self) -> int:
        """Side in px of what becomes one feature of an image that is read in its own shape."""
        patch_px = side_px(self.config.vision_config, "patch_size")
        return patch_px * self.config.vision_config.spatial_merge_size if self.packing == "grid" else patch_px

    @property
    def image_token_id(self) -> int:
        """Id of the image token, under either of its names in config.json."""
        token_id: int = self.config.image_token_id
        return token_id

    @property
    def language_xml(self) -> Path:
        return self.path / LANGUAGE_XML


class Part:
    """A compiled part with one input and one output. Threads that call it take turns."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._lock = Lock()

    def __call__(self, values: np.ndarray[Any, Any]) -> FloatArray:
        """The output in float32, an array that the caller owns."""
        with self._lock:
            outputs = self._request.infer([values])
        result: FloatArray = outputs[0]
        return result


def read_folder(path: Path, *, hashed: bool = True) -> ModelFolder:
    """Read the config and the manifest, if there is one. Raises ModelFolderError for an incomplete folder.

    If `hashed`, the hash of every file in the manifest is compared, otherwise its size alone. A folder
    without manifest, as optimum-intel exports it, has its own name as model id.
    """
    for name in (CONFIG_JSON, VISION_XML, TEXT_XML, LANGUAGE_XML):
        if not (path / name).is_file():
            raise ModelFolderError(f"{path} is no model folder: it has no {name}.")
    manifest = _check_manifest(path, hashed=hashed) if (path / MANIFEST_JSON).exists() else None
    config, packing = _read_config(path, manifest)
    marks = None if manifest is None else manifest.marks
    if (packing == "tiles") != (marks is not None):
        raise ModelFolderError(f"{path / MANIFEST_JSON} does not fit together: packing {packing}, {marks=}.")
    try:
        plane_tiles = most_plane_tiles(config, packing)
        if packing != "grid":
            side_px(config.vision_config, "image_size")
        side_px(config.vision_config, "patch_size")
    except ValueError as error:
        raise ModelFolderError(f"{path} holds a model that this worker does not run: {error}.") from error
    return ModelFolder(
        path,
        path.resolve().name if manifest is None else manifest.model,
        config,
        packing,
        _image_newline(path, config, packing),
        plane_tiles,
        _eos_token_ids(path, config),
        marks,
    )


def folder_properties(path: Path) -> Mapping[str, str]:
    """OpenVINO properties that the folder asks for. Raises ModelFolderError for an invalid manifest."""
    return _read_manifest(path).properties if (path / MANIFEST_JSON).exists() else {}


def compile_part(folder: Path, xml: str, device: str, properties: Mapping[str, str]) -> Part:
    """Compile one part for `device`."""
    return Part(openvino.Core().compile_model(folder / xml, device, dict(properties)))


def _check_manifest(path: Path, *, hashed: bool) -> FolderManifest:
    """The manifest, whose files are all as it says."""
    manifest = _read_manifest(path)
    for name, expected in manifest.files.items():
        if not (path / name).is_file():
            raise ModelFolderError(f"{path} is incomplete: {name}, which its manifest names, is missing.")
        same_size = (path / name).stat().st_size == expected.size_bytes
        if not same_size or (hashed and _describe(path / name) != expected):
            raise ModelFolderError(f"{path} is not what was published: {name} differs from its manifest.")
    return manifest


def _read_manifest(path: Path) -> FolderManifest:
    try:
        return FolderManifest.model_validate_json((path / MANIFEST_JSON).read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ModelFolderError(f"{path / MANIFEST_JSON} is not a valid manifest: {reason}.") from error


def _describe(path: Path) -> FolderFile:
    with path.open("rb") as stream:
        return FolderFile(
            size_bytes=path.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest()
        )


def _read_config(path: Path, manifest: FolderManifest | None) -> tuple[PretrainedConfig, Packing]:
    try:
        raw = json.loads((path / CONFIG_JSON).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path / CONFIG_JSON} is not JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelFolderError(f"{path / CONFIG_JSON} is not a JSON object.")
    if "auto_map" in raw:
        raise ModelFolderError(
            f"{path} brings code of its own (auto_map in {CONFIG_JSON}), which a worker never runs."
        )
    model_type = raw.get("model_type")
    packing = (manifest and manifest.packing) or packing_by_type(raw)
    if packing is None or model_type not in CONFIG_MAPPING:
        raise ModelFolderError(
            f"{path} holds a model of type {model_type!r}; this worker runs {', '.join(PACKINGS)}."
        )
    return CONFIG_MAPPING[model_type].from_dict(raw), packing


def _image_newline(path: Path, config: PretrainedConfig, packing: Packing) -> FloatArray | None:
    if packing not in ("anyres", "anyres_max"):
        return None
    newline = getattr(config, "image_newline", None)
    hidden = config.text_config.hidden_size
    if not isinstance(newline, list) or len(newline) != hidden:
        raise ModelFolderError(
            f"{path / CONFIG_JSON} has no image_newline of {hidden} numbers; "
            "convert the checkpoint again with model_prep, which writes it."
        )
    return np.asarray(newline, dtype=np.float32)


def _eos_token_ids(path: Path, config: PretrainedConfig) -> tuple[int, ...]:
    """Those of generation_config.json, as in transformers; else those of the language model's config."""
    found = getattr(config.text_config, "eos_token_id", None)
    if (path / GENERATION_CONFIG_JSON).is_file():
        generation = json.loads((path / GENERATION_CONFIG_JSON).read_text(encoding="utf-8"))
        found = found if generation.get("eos_token_id") is None else generation["eos_token_id"]
    if found is None:
        raise ModelFolderError(f"{path} names no eos_token_id, without which no answer ends.")
    return tuple(found) if isinstance(found, list) else (int(found),)
