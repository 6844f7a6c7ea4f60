"""ViP-LLaVA: one view of an image, with features of several layers, normed before the projection."""

from typing import Final

from transformers import LlavaProcessor, VipLlavaForConditionalGeneration

from model_prep.families.family import Family

VIPLLAVA: Final = Family(
    VipLlavaForConditionalGeneration,
    LlavaProcessor,
    packing="view",
    towers=("clip_vision_model",),
    conversation="vip_vicuna",
)
