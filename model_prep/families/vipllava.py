"""ViP-LLaVA: one view of an image, of several layers of the tower, normed before they are projected."""

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
