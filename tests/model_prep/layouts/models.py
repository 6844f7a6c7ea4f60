"""Makes the twin of a layout: a tiny model with random weights, whole and as transformers writes it today."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GraniteConfig,
    Idefics3Config,
    Idefics3Processor,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaOnevisionConfig,
    LlavaProcessor,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PixtralVisionConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen3Config,
    SmolVLMConfig,
    VipLlavaConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLVisionConfig,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from model_prep.families.internvl_processor import InternVLProcessor
from model_prep.families.next_video_processor import LlavaNextVideoProcessor
from model_prep.families.onevision_processor import LlavaOnevisionProcessor
from model_prep.families.pixtral_processor import PixtralProcessor
from model_prep.families.qwen2_5_vl_processor import Qwen2_5_VLProcessor
from model_prep.families.smolvlm_processor import SmolVLMProcessor
from tests.model_prep.layouts.tokenizers import LLAMA, Tokens, make_bpe
from tests.support.checkpoints import GRID_PINPOINTS, PATCH_PX, TILE_PX
from tests.support.families import (
    ASPECT_RATIO,
    ONEVISION_PINPOINTS,
    ONEVISION_TILE_PX,
    SIDE_PATCHES,
    clip,
    save,
    siglip,
    text,
)

LANGUAGES: dict[str, type[PretrainedConfig]] = {
    config.model_type: config
    for config in (
        GemmaConfig,
        Gemma2Config,
        GraniteConfig,
        LlamaConfig,
        MistralConfig,
        OlmoConfig,
        Phi3Config,
        Qwen2Config,
        Qwen2_5_VLTextConfig,
        Qwen3Config,
    )
}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CROP = {"height": TILE_PX, "width": TILE_PX}


@dataclass(frozen=True)
class Model:
    """The facts of a model: its family, its parts, and what their configs say beside the small sizes."""

    family: str = "llava"
    language: str = "llama"
    tower: str = "clip"
    tokens: Tokens = LLAMA
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    vocabulary: int | None = None
    """rows of the embeddings beside the tokenizer's: 0 none, -1 one fewer; None up to a multiple of 64"""
    tied: bool = False
    ends: tuple[str, ...] = ()
    """ends of sequence beside the tokenizer's"""
    pads: bool = False
    """images are padded to a square"""
    dtype: torch.dtype = torch.float32


def make_twin(
    folder: Path, model: Model, template: str, tokenizer: PreTrainedTokenizerFast | None = None
) -> Path:
    """Write the checkpoint that a layout is compared with; return `folder`."""
    tokenizer = tokenizer or make_bpe(model.tokens)
    image_token_id = tokenizer.convert_tokens_to_ids(model.tokens.image)
    language = _language(model, tokenizer)
    common: dict[str, Any] = {
        "vision_config": _tower(model),
        "text_config": language,
        "image_token_index": image_token_id,
        "tie_word_embeddings": model.tied,
    }
    processor, config = FAMILIES[model.family](model, tokenizer, common)
    processor.image_token, processor.image_token_id = model.tokens.image, image_token_id
    processor.chat_template = tokenizer.chat_template = template
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(model.ends))]
    return save(folder, processor, config, model.dtype, ends=ends if model.ends else None)


def _language(model: Model, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    vocabulary = (
        -(-len(tokenizer) // 64) * 64 if model.vocabulary is None else len(tokenizer) + model.vocabulary
    )
    return text(
        LANGUAGES[model.language],
        tokenizer,
        **{"vocab_size": vocabulary, "tie_word_embeddings": model.tied, "head_dim": 12} | model.text,
    )


def _tower(model: Model) -> PretrainedConfig:
    if model.tower == "clip":
        return clip(**model.vision)
    if model.tower == "siglip":
        side = ONEVISION_TILE_PX if model.family == "llava_onevision" else TILE_PX
        return siglip(side, **model.vision)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    if model.tower == "qwen2_5_vl":
        return _windows(model)
    if model.tower == "pixtral":
        return PixtralVisionConfig(**sizes, image_size=8 * PATCH_PX, patch_size=PATCH_PX, **model.vision)
    return TOWERS[model.tower](**sizes, image_size=TILE_PX, patch_size=PATCH_PX, **model.vision)


def _windows(model: Model) -> PretrainedConfig:
    """Windows of 6 x 6 patches, in one of three layers none: the tall picture's last ones lack a third."""
    return Qwen2_5_VLVisionConfig(
        depth=3,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=PATCH_PX,
        window_size=6 * PATCH_PX,
        out_hidden_size=48,
        fullatt_block_indexes=[1],
        **model.vision,
    )


def _view(model: Model, tokenizer: Any, config: PretrainedConfig) -> Any:
    images: Any
    if model.tower == "siglip":
        images = SiglipImageProcessorPil(size=CROP)
    elif model.pads:
        images = LlavaImageProcessorPil(size={"shortest_edge": TILE_PX}, crop_size=CROP, do_pad=True)
    else:
        images = CLIPImageProcessorPil(size={"shortest_edge": TILE_PX}, crop_size=CROP)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy=getattr(config, "vision_feature_select_strategy", "default"),
        num_additional_image_tokens=int(model.tower == "clip"),
    )


def _llava(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    config = LlavaConfig(**(common | {"image_seq_length": SIDE_PATCHES**2} | model.config))
    if model.tower != "pixtral":
        return _view(model, tokenizer, config), config
    images = PixtralImageProcessorPil(
        size={"longest_edge": 8 * PATCH_PX}, patch_size={"height": PATCH_PX, "width": PATCH_PX}
    )
    return PixtralProcessor(images, tokenizer, patch_size=PATCH_PX), config


def _vipllava(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    config = VipLlavaConfig(**(common | {"image_seq_length": SIDE_PATCHES**2} | model.config))
    return _view(model, tokenizer, config), config


def _next(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    video = model.family == "llava_next_video"
    more = {"image_grid_pinpoints": GRID_PINPOINTS, "image_seq_length": SIDE_PATCHES**2}
    if video:
        more["video_token_index"] = tokenizer.convert_tokens_to_ids("<video>")
    config = (LlavaNextVideoConfig if video else LlavaNextConfig)(**(common | more | model.config))
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE_PX},
        crop_size=CROP,
        image_grid_pinpoints=config.image_grid_pinpoints,
        **(HALF if model.tower == "siglip" else {}),
    )
    processor = (LlavaNextVideoProcessor if video else LlavaNextProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(model.tower == "clip"),
    )
    return processor, config


def _onevision(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    more = {
        "video_token_index": 0,
        "image_grid_pinpoints": ONEVISION_PINPOINTS,
        "vision_aspect_ratio": ASPECT_RATIO,
    }
    config = LlavaOnevisionConfig(**(common | more | model.config))
    images = LlavaOnevisionImageProcessorPil(
        size={"height": ONEVISION_TILE_PX, "width": ONEVISION_TILE_PX},
        image_grid_pinpoints=ONEVISION_PINPOINTS,
        **HALF,
    )
    processor = LlavaOnevisionProcessor(
        images,
        tokenizer,
        num_image_tokens=SIDE_PATCHES**2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=ASPECT_RATIO,
    )
    return processor, config


def _internvl(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    tokens = (SIDE_PATCHES // 2) ** 2
    image_token_id = common.pop("image_token_index")
    config = InternVLConfig(
        **(common | {"image_token_id": image_token_id, "image_seq_length": tokens} | model.config)
    )
    images = GotOcr2ImageProcessorPil(size=CROP, max_patches=4, crop_to_patches=False)
    return InternVLProcessor(images, tokenizer, image_seq_length=tokens), config


def _split(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    smol = model.family == "smolvlm"
    config = (SmolVLMConfig if smol else Idefics3Config)(
        **(common | {"image_token_id": common.pop("image_token_index"), "scale_factor": 2} | model.config)
    )
    sizes = {"size": {"longest_edge": 3 * TILE_PX}, "max_image_size": {"longest_edge": TILE_PX}}
    tokens = (SIDE_PATCHES // 2) ** 2
    if smol:
        return SmolVLMProcessor(SmolVLMImageProcessorPil(**sizes), tokenizer, image_seq_len=tokens), config
    return Idefics3Processor(Idefics3ImageProcessorPil(**sizes), tokenizer, image_seq_len=tokens), config


def _qwen2_5_vl(model: Model, tokenizer: Any, common: dict[str, Any]) -> tuple[Any, PretrainedConfig]:
    named = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            *(("image", "image_pad"), ("video", "video_pad")),
            *(("vision_start", "vision_start"), ("vision_end", "vision_end")),
        )
    }
    common.pop("image_token_index")
    config = Qwen2_5_VLConfig(**(common | named | model.config))
    pixels = {"shortest_edge": 4 * PATCH_PX**2, "longest_edge": 100 * PATCH_PX**2}
    images = Qwen2VLImageProcessorPil(size=pixels, patch_size=PATCH_PX)
    return Qwen2_5_VLProcessor(images, tokenizer), config


TOWERS: dict[str, type[PretrainedConfig]] = {
    "internvl": InternVLVisionConfig,
    "idefics3": Idefics3VisionConfig,
    "smolvlm": SmolVLMVisionConfig,
}
Make = Callable[[Model, Any, dict[str, Any]], tuple[Any, PretrainedConfig]]
FAMILIES: dict[str, Make] = {
    "llava": _llava,
    "vipllava": _vipllava,
    "llava_next": _next,
    "llava_next_video": _next,
    "llava_onevision": _onevision,
    "internvl": _internvl,
    "idefics3": _split,
    "smolvlm": _split,
    "qwen2_5_vl": _qwen2_5_vl,
}
