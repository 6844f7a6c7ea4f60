"""A family of checkpoints as data; knows no file and no particular family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from contract.model_folder import Packing, TileMarks, side_px
from model_prep.wrappers import VisionEmbeddings

CLASS_TOKENS: Final = {"clip_vision_model": 1, "siglip_vision_model": 0, "pixtral": 0}
"""Vision tower → its number of tokens before the patches."""
ROW_TOWERS: Final = ("pixtral",)
"""Vision towers that read an image of any size."""


@dataclass(frozen=True)
class Parts:
    """Names of a model's parts within its `model`."""

    tower: str = "vision_tower"
    projector: str = "multi_modal_projector"
    decoder: str = "language_model"


def llava_numbers(config: PretrainedConfig) -> dict[str, object]:
    """The numbers from the config that LLaVA's processor counts image tokens with."""
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
    """The properties of checkpoints with one model_type."""

    model: type[PreTrainedModel]
    processor: type[ProcessorMixin]
    packing: Packing
    towers: tuple[str, ...]
    """model_types of supported vision towers."""
    row_processor: type[ProcessorMixin] | None = None
    """Processor class with a tower of ROW_TOWERS."""
    conversation: str | None = None
    """Name in model_prep.conversations, if all its checkpoints were trained with one conversation."""
    parts: Parts = Parts()
    vision: Callable[[PreTrainedModel], nn.Module] = VisionEmbeddings
    """Module pixel_values (tile, 3, height, width) → features (tile, patch, hidden)."""
    numbers: Callable[[PretrainedConfig], Mapping[str, object]] = llava_numbers
    """Fields of the processor from config.json; fields that the processor lacks are ignored."""
    axes: Callable[[Tensor], Tensor] | None = None
    """With the packing "grid": position_ids (row, position) → the decoder's (axis, row, position)."""
    tiles: Callable[[Mapping[str, Any], PretrainedConfig], Tensor] | None = None
    """The pixel_values for `vision` from a processor's inputs; None if they are the tower's input."""
    marks: Callable[[Any], TileMarks] | None = None
    """With the packing "tiles": the processor's texts around the tiles."""

    @property
    def config(self) -> type[PretrainedConfig]:
        config: type[PretrainedConfig] = self.model.config_class
        return config

    @property
    def anyres(self) -> bool:
        """Whether tiles are laid out in a grid, which needs features of patches only."""
        return self.packing in ("anyres", "anyres_max")

    def packing_of(self, tower: str) -> Packing:
        return "rows" if tower in ROW_TOWERS else self.packing

    def processor_of(self, tower: str) -> type[ProcessorMixin]:
        return self.row_processor if tower in ROW_TOWERS and self.row_processor else self.processor

    def select_strategies(self, tower: str) -> tuple[str, ...]:
        """Allowed values of vision_feature_select_strategy; "default" drops the first token, "full" none."""
        if tower in ROW_TOWERS:
            return ("full",)
        if self.packing == "tiles":
            return ("default",)
        if not self.anyres:
            return ("default", "full")
        return ("default",) if CLASS_TOKENS[tower] else ("full",)
