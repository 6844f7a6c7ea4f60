"""The families of checkpoints that can be converted, and the tested language models; knows no file."""

from typing import Final

from model_prep.families.family import Family
from model_prep.families.idefics3 import IDEFICS3, SMOLVLM
from model_prep.families.internvl import INTERNVL
from model_prep.families.llava import LLAVA
from model_prep.families.llava_next import LLAVA_NEXT
from model_prep.families.llava_next_video import LLAVA_NEXT_VIDEO
from model_prep.families.llava_onevision import LLAVA_ONEVISION
from model_prep.families.qwen2_5_vl import QWEN2_5_VL
from model_prep.families.vipllava import VIPLLAVA

FAMILIES: Final[dict[str, Family]] = {
    family.config.model_type: family
    for family in (
        LLAVA,
        VIPLLAVA,
        LLAVA_NEXT,
        LLAVA_NEXT_VIDEO,
        LLAVA_ONEVISION,
        INTERNVL,
        IDEFICS3,
        SMOLVLM,
        QWEN2_5_VL,
    )
}
DO_NOT_FIT: Final = {
    "fast_vlm": "its vision tower is from timm, which cannot be loaded without torchvision",
    "gemma3": "the tokens of an image see each other both ways, and a worker's language model has one "
    "causal mask",
}
"""Family → the reason why it is not supported."""
TESTED_LANGUAGE_MODELS: Final = (
    "gemma",
    "gemma2",
    "granite",
    "llama",
    "mistral",
    "phi3",
    "qwen2",
    "qwen2_5_vl_text",
    "qwen3",
)
"""model_types that the tests cover. Others may work: the exporter traces any decoder of transformers with one
shape of keys and values, one causal mask and positions on one axis."""
