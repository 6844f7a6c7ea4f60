"""What a family of checkpoints is, as data; knows no file and no family."""

from dataclasses import dataclass
from typing import Final

from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from contract.model_folder import Packing

CLASS_TOKENS: Final = {"clip_vision_model": 1, "siglip_vision_model": 0, "pixtral": 0}
"""Of each vision tower, how many tokens it puts before those of its patches."""
ROW_TOWERS: Final = ("pixtral",)
"""Vision towers that read an image in its own shape."""


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
        if not self.anyres:
            return ("default", "full")
        return ("default",) if CLASS_TOKENS[tower] else ("full",)
