"""What a family of checkpoints is, as data; knows no file and no family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from contract.model_folder import Packing, TileMarks, side_px
from model_prep.wrappers import VisionEmbeddings

CLASS_TOKENS: Final = {"clip_vision_model": 1, "siglip_vision_model": 0, "pixtral": 0}
"""Of each vision tower, how many tokens it puts before those of its patches."""
ROW_TOWERS: Final = ("pixtral",)
"""Vision towers that read an image in its own shape."""


@dataclass(frozen=True)
class Parts:
    """What the parts of a model are called in its `model`."""

    tower: str = "vision_tower"
    projector: str = "multi_modal_projector"
    decoder: str = "language_model"


def llava_numbers(config: PretrainedConfig) -> dict[str, object]:
    """What a processor of LLaVA's counts image tokens with, as the model's config decides it."""
    tower = config.vision_config
    image_px, patch_px = side_px(tower, "image_size"), side_px(tower, "patch_size")
    return {
        "patch_size": patch_px,
        "num_additional_image_tokens": CLASS_TOKENS[tower.model_type],
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", "default"),
        "num_image_tokens": (image_px // patch_px) ** 2,
        "vision_aspect_ratio": getattr(config, "vision_aspect_ratio", None),
    }


@dataclass(frozen=True)
class Family:
    """The checkpoints of one model_type."""

    model: type[PreTrainedModel]
    processor: type[ProcessorMixin]
    packing: Packing
    towers: tuple[str, ...]
    """model_types of vision towers"""
    row_processor: type[ProcessorMixin] | None = None
    """with a tower of ROW_TOWERS"""
    conversation: str | None = None
    """that all its checkpoints were trained with, by its name in model_prep.conversations"""
    parts: Parts = Parts()
    vision: Callable[[PreTrainedModel], nn.Module] = VisionEmbeddings
    """maps pixel_values (tile, 3, height, width) to features (tile, patch, hidden)"""
    numbers: Callable[[PretrainedConfig], Mapping[str, object]] = llava_numbers
    """fields of the processor that config.json decides; one that the processor lacks decides nothing"""
    axes: Callable[[Tensor], Tensor] | None = None
    """with the packing "grid": maps position_ids (row, position) to the decoder's (axis, row, position)"""
    tiles: Callable[[Mapping[str, Any], PretrainedConfig], Tensor] | None = None
    """the pixel_values of `vision` in a processor's inputs; None where they are what the tower is given"""
    marks: Callable[[Any], TileMarks] | None = None
    """with the packing "tiles": what the processor writes between them"""

    @property
    def config(self) -> type[PretrainedConfig]:
        config: type[PretrainedConfig] = self.model.config_class
        return config

    @property
    def anyres(self) -> bool:
        """Patches are laid out in a plane, where nothing but patches has a place."""
        return self.packing in ("anyres", "anyres_max")

    def packing_of(self, tower: str) -> Packing:
        return "rows" if tower in ROW_TOWERS else self.packing

    def processor_of(self, tower: str) -> type[ProcessorMixin]:
        return self.row_processor if tower in ROW_TOWERS and self.row_processor else self.processor

    def select_strategies(self, tower: str) -> tuple[str, ...]:
        """The values of vision_feature_select_strategy: "default" leaves the first token out, "full" none."""
        if tower in ROW_TOWERS:
            return ("full",)
        if self.packing == "tiles":
            return ("default",)
        if not self.anyres:
            return ("default", "full")
        return ("default",) if CLASS_TOKENS[tower] else ("full",)
