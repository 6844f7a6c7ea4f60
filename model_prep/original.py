"""Reads checkpoints in LLaVA's own layout as if they were in transformers'; knows no OpenVINO.

In that layout, config.json is the language model's with additional mm_ fields, weights have other names, and
mm_vision_tower names a separate checkpoint. LLaVA-1.5, v1.6 and LLaVA-OneVision are supported.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from transformers import ProcessorMixin
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from model_prep.families import FAMILIES
from model_prep.refusal import ConversionError, refusing
from model_prep.source import Source, find_source, weight_files
from model_prep.tokenizer import read_tokenizer

LANGUAGE_MODELS: Final = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
"""Architecture → the language model's model_type."""
PROJECTOR: Final = "mlp2x_gelu"
RENAMED: Final = (
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.vision_tower\.vision_tower\.(vision_model\.)?", "model.vision_tower."),
    (r"^model\.image_newline$", "model.image_newline"),
    (r"^model\.(embed_tokens|layers|norm)\b", r"model.language_model.\1"),
    (r"^lm_head\.", "lm_head."),
)
"""Pattern of a weight's name → its name in transformers."""
TOWER_RENAMED: Final = ((r"^(vision_model\.)?", "model.vision_tower."),)
"""The same for a vision tower that is a separate checkpoint."""
TOWER_WEIGHT: Final = re.compile(
    r"(vision_model\.)?(embeddings|encoder|pre_layrnorm|post_layernorm|head)\..*"
)
"""Names of the tower's weights, in a checkpoint that may also have a text model."""
RANGE: Final = re.compile(r"\((\d+)x(\d+)\),\.\.\.,\((\d+)x(\d+)\)")
"""image_grid_pinpoints as a range of grids, as in later repositories of LLaVA-NeXT."""


def is_original(raw: dict[str, Any]) -> bool:
    """Whether a config.json is in LLaVA's own layout."""
    named = "mm_vision_tower" in raw or any(name in LANGUAGE_MODELS for name in _architectures(raw))
    return named and "text_config" not in raw


def open_original(
    raw: dict[str, Any], source: str, vision_tower: str | None
) -> tuple[dict[str, Any], "OriginalLayout"]:
    """config.json in transformers' layout, and the reader of the other files.

    `vision_tower` is a folder or hub id, by default that of mm_vision_tower. Raises ConversionError.
    """
    language = _language_model(raw)
    _require_plain(raw, source)
    tower = _find_tower(raw, source, vision_tower)
    tower_config = _tower_config(tower.folder)
    family = _family(raw)
    text = {key: value for key, value in raw.items() if not key.startswith(("mm_", "image_", "tokenizer_"))}
    config: dict[str, Any] = {
        "model_type": family,
        "architectures": [FAMILIES[family].model.__name__],
        "text_config": text | {"model_type": language},
        "vision_config": tower_config,
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
        **_features(raw, tower_config["model_type"]),
    }
    if family != "llava":
        config["image_grid_pinpoints"] = _pinpoints(raw, tower_config["image_size"])
    if family == "llava_onevision":
        config["vision_aspect_ratio"] = raw["image_aspect_ratio"]
    layout = OriginalLayout(Path(source), tower, config, raw)
    config["image_token_index"] = layout.image_token_id
    return config, layout


@dataclass(frozen=True)
class OriginalLayout:
    """The files of a checkpoint in LLaVA's own layout, and of its vision tower."""

    folder: Path
    tower_source: Source
    config: dict[str, Any]
    """config.json in transformers' layout."""
    raw: dict[str, Any]

    @property
    def tower(self) -> Path:
        return self.tower_source.folder

    @cached_property
    def tokenizer(self) -> Any:
        with refusing(f"The tokenizer of {self.folder} cannot be read"):
            return read_tokenizer(self.folder)

    @property
    def image_token_id(self) -> int:
        """The tokenizer's <image>, else the id after its last token, whose embedding is never used."""
        vocabulary = self.tokenizer.get_vocab()
        return int(vocabulary.get("<image>", len(self.tokenizer)))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights by transformers' names; the checkpoint's own tower weights override the tower's."""
        weights = {
            _renamed(name, TOWER_RENAMED): weight
            for name, weight in _weights(self.tower)
            if TOWER_WEIGHT.fullmatch(name)
        }
        return weights | {_renamed(name, RENAMED): weight for name, weight in _weights(self.folder)}

    def read_processor(self) -> ProcessorMixin:
        """The tower's image processor, with the checkpoint's way to cut images, and the tokenizer."""
        family = FAMILIES[self.config["model_type"]]
        processor: ProcessorMixin = family.processor(self._image_processor(), self.tokenizer)
        return processor

    def _image_processor(self) -> Any:
        vision = self.config["vision_config"]
        side = vision["image_size"]
        said = _preprocessing(self.tower)
        square = {"height": side, "width": side}
        crops = vision["model_type"] == "clip_vision_model"
        match self.config["model_type"]:
            case "llava_onevision":
                return LlavaOnevisionImageProcessorPil(
                    **said, size=square, image_grid_pinpoints=self.config["image_grid_pinpoints"]
                )
            case "llava_next":
                return LlavaNextImageProcessorPil(
                    **said,
                    size={"shortest_edge": side},
                    crop_size=square,
                    image_grid_pinpoints=self.config["image_grid_pinpoints"],
                )
        if self.raw.get("image_aspect_ratio") == "pad":
            return LlavaImageProcessorPil(
                **said, do_pad=True, size={"shortest_edge": side} if crops else square, crop_size=square
            )
        if crops:
            return CLIPImageProcessorPil(**said, size={"shortest_edge": side}, crop_size=square)
        return SiglipImageProcessorPil(**said, size=square)


def _architectures(raw: dict[str, Any]) -> list[Any]:
    found = raw.get("architectures")
    return found if isinstance(found, list) else []


def _language_model(raw: dict[str, Any]) -> str:
    for name in _architectures(raw):
        if name in LANGUAGE_MODELS:
            return LANGUAGE_MODELS[name]
    raise ConversionError(
        f"The architecture {next(iter(_architectures(raw)), None)!r} of LLaVA's own layout is not supported; "
        f"supported: {', '.join(LANGUAGE_MODELS)}."
    )


def _require_plain(raw: dict[str, Any], source: str) -> None:
    """Raise ConversionError for modules that transformers' LLaVA does not have."""
    if raw.get("mm_projector_type", "linear") != PROJECTOR:
        raise ConversionError(
            f"The projector {raw.get('mm_projector_type', 'linear')!r} of {source} is not supported; "
            f"supported: {PROJECTOR}."
        )
    for field in ("mm_resampler_type", "mm_use_im_start_end", "mm_use_im_patch_token"):
        if raw.get(field):
            raise ConversionError(f"{source} has {field} {raw[field]!r}, which is not supported.")


def _find_tower(raw: dict[str, Any], source: str, vision_tower: str | None) -> Source:
    wanted = vision_tower or raw.get("mm_vision_tower")
    if not isinstance(wanted, str) or not wanted:
        raise ConversionError(f"{source} names no mm_vision_tower; --vision-tower gives a folder or hub id.")
    beside = Path(source) / wanted
    try:
        return find_source(str(beside) if beside.is_dir() else wanted, None)
    except ConversionError as error:
        raise ConversionError(
            f"The vision tower of {source} is not here: {error} --vision-tower gives its folder or hub id."
        ) from error


def _tower_config(tower: Path) -> dict[str, Any]:
    path = tower / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        config: dict[str, Any] = raw.get("vision_config", raw)
        model_type = config.get("model_type") or f"{raw['model_type']}_vision_model"
        return config | {"model_type": model_type, "image_size": int(config["image_size"])}
    except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ConversionError(f"{path} is no vision tower's config: {error!r}.") from error


def _family(raw: dict[str, Any]) -> str:
    aspect = str(raw.get("image_aspect_ratio"))
    if aspect.startswith("anyres_max"):
        return "llava_onevision"
    if aspect == "anyres":
        if not str(raw.get("mm_patch_merge_type")).startswith("spatial_unpad"):
            raise ConversionError(
                f"The mm_patch_merge_type {raw.get('mm_patch_merge_type')!r} is not supported with anyres; "
                "supported: spatial_unpad."
            )
        return "llava_next"
    return "llava"


def _features(raw: dict[str, Any], tower: str) -> dict[str, Any]:
    """Which layer and tokens give features. In this layout, SigLIP's last layer is always left out."""
    if tower == "siglip_vision_model":
        return {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}
    whole = raw.get("mm_vision_select_feature", "patch") == "cls_patch"
    return {
        "vision_feature_layer": raw.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "full" if whole else "default",
    }


def _pinpoints(raw: dict[str, Any], side: int) -> list[list[int]]:
    found = raw.get("image_grid_pinpoints")
    grids = RANGE.fullmatch(found.replace(" ", "")) if isinstance(found, str) else None
    if grids is not None:
        top, left, bottom, right = map(int, grids.groups())
        return [
            [height * side, width * side]
            for height in range(top, bottom + 1)
            for width in range(left, right + 1)
        ]
    if isinstance(found, list):
        return [list(pinpoint) for pinpoint in found]
    raise ConversionError(f"image_grid_pinpoints {found!r} is not supported: a list, or (1x1),...,(6x6).")


def _preprocessing(tower: Path) -> dict[str, Any]:
    """The colour settings of the tower's image processor."""
    path = tower / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    fields = ("image_mean", "image_std", "rescale_factor", "resample")
    if not all(said.get(field) for field in ("image_mean", "image_std")):
        raise ConversionError(f"{path} does not say with which image_mean and image_std images are read.")
    return {field: said[field] for field in fields if field in said}


def _weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and memory-mapped tensors of all weight files."""
    for path in weight_files(folder):
        if path.suffix == ".bin":
            yield from _unpickled(path).items()
            continue
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                yield name, tensors.get_tensor(name)


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle; anything else in it raises."""
    # Only archives can be mapped; files from before torch 1.6 are no archives.
    tensors: dict[str, torch.Tensor] = torch.load(
        path, map_location="cpu", mmap=is_zipfile(path), weights_only=True
    )
    return tensors


def _renamed(name: str, renamed: tuple[tuple[str, str], ...]) -> str:
    for pattern, there in renamed:
        changed, count = re.subn(pattern, there, name)
        if count:
            return changed
    return name
