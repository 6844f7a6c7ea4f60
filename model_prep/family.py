"""The families of checkpoints that can be converted, and what they may be made of; knows no file."""

from dataclasses import dataclass
from typing import Final

from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from model_prep.onevision import LlavaOnevisionProcessor

CLASS_TOKENS: Final = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Of each vision tower, how many tokens it puts before those of its patches."""


@dataclass(frozen=True)
class Family:
    """The checkpoints of one model_type."""

    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    processor: type[ProcessorMixin]
    text_model_types: tuple[str, ...]
    vision_model_types: tuple[str, ...]
    anyres: bool
    """patches are laid out in a plane, where nothing but patches has a place"""

    def select_strategies(self, vision_model_type: str) -> tuple[str, ...]:
        """The values of vision_feature_select_strategy: "default" leaves the first token out, "full" none."""
        if not self.anyres:
            return ("default", "full")
        return ("default",) if CLASS_TOKENS[vision_model_type] else ("full",)


FAMILIES: Final = {
    family.config.model_type: family
    for family in (
        Family(
            LlavaConfig,
            LlavaForConditionalGeneration,
            LlavaProcessor,
            text_model_types=("llama", "mistral", "qwen2"),
            vision_model_types=("clip_vision_model", "siglip_vision_model"),
            anyres=False,
        ),
        Family(
            LlavaNextConfig,
            LlavaNextForConditionalGeneration,
            LlavaNextProcessor,
            text_model_types=("llama", "mistral", "qwen2"),
            vision_model_types=("clip_vision_model", "siglip_vision_model"),
            anyres=True,
        ),
        Family(
            LlavaOnevisionConfig,
            LlavaOnevisionForConditionalGeneration,
            LlavaOnevisionProcessor,
            text_model_types=("qwen2",),
            vision_model_types=("siglip_vision_model",),
            anyres=True,
        ),
    )
}
