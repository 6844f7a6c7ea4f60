"""LLaVA-OneVision: as LLaVA-NeXT, with the grid's features shrunk to those of a number of tiles."""

from typing import Final

from transformers import LlavaOnevisionForConditionalGeneration

from model_prep.families.family import Family
from model_prep.families.onevision_processor import LlavaOnevisionProcessor

LLAVA_ONEVISION: Final = Family(
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    packing="anyres_max",
    towers=("siglip_vision_model",),
    conversation="qwen",
)
