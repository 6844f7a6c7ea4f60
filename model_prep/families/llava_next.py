"""LLaVA-NeXT (v1.6) and Granite Vision: a base tile and a grid of tiles whose rows end in image newlines."""

from typing import Final

from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from model_prep.families.family import Family

LLAVA_NEXT: Final = Family(
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    packing="anyres",
    towers=("clip_vision_model", "siglip_vision_model"),
)
