"""LLaVA-NeXT-Video, for images only, which it treats as LLaVA-NeXT does."""

from typing import Final

from transformers import LlavaNextVideoForConditionalGeneration

from model_prep.families.family import Family
from model_prep.families.next_video_processor import LlavaNextVideoProcessor

LLAVA_NEXT_VIDEO: Final = Family(
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    packing="anyres",
    towers=("clip_vision_model", "siglip_vision_model"),
)
