"""LLaVA-1.5: one view of an image; or, with Pixtral's tower, rows of patches of an image of any size."""

from typing import Final

from transformers import LlavaForConditionalGeneration, LlavaProcessor

from model_prep.families.family import Family
from model_prep.families.pixtral_processor import PixtralProcessor

LLAVA: Final = Family(
    LlavaForConditionalGeneration,
    LlavaProcessor,
    packing="view",
    towers=("clip_vision_model", "siglip_vision_model", "pixtral"),
    row_processor=PixtralProcessor,
)
