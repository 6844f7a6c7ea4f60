"""Makes tiny checkpoints with random weights as transformers writes them today; knows nothing of OpenVINO.

Biases and norms are random too, so that one that is left out shows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaOnevisionConfig,
    LlavaProcessor,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from model_prep.families.onevision_processor import LlavaOnevisionProcessor
from tests.support.checkpoints import (
    CHAT_TEMPLATE,
    OTHER_CHAT_TEMPLATE,
    PATCH_PX,
    TEXTS,
    TILE_PX,
    WEIGHT_STD,
    make_tokenizer,
)

SIDE_PATCHES = TILE_PX // PATCH_PX
ONEVISION_TILE_PX = 58
"""As LLaVA-OneVision's 384, no multiple of the patch: what is left over is cut off."""
ONEVISION_PINPOINTS = [
    [height * ONEVISION_TILE_PX, width * ONEVISION_TILE_PX] for height in range(1, 5) for width in range(1, 5)
]
ASPECT_RATIO = "anyres_max_2"
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + part['text'] }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_chatml_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen2's: byte-level, nothing before a text, several tokens that no text may spell."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=CHATML_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )


def clip(**variation: Any) -> CLIPVisionConfig:
    return CLIPVisionConfig(**(_tower(TILE_PX) | variation))


def siglip(side_px: int = TILE_PX, **variation: Any) -> SiglipVisionConfig:
    return SiglipVisionConfig(**(_tower(side_px) | variation))


def _tower(side_px: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": side_px,
        "patch_size": PATCH_PX,
    }


def text(
    config: type[PretrainedConfig], tokenizer: PreTrainedTokenizerFast, **variation: Any
) -> PretrainedConfig:
    """A language model of two layers and 48 hidden, with grouped heads unless said otherwise."""
    parameters = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return config(**(parameters | variation))


def llava(folder: Path) -> Path:
    """LLaVA-1.5: CLIP's processor, Llama."""
    tokenizer = make_tokenizer()
    return _save_llava(
        folder, tokenizer, text(LlamaConfig, tokenizer, num_key_value_heads=4), OTHER_CHAT_TEMPLATE
    )


def llava_full(folder: Path) -> Path:
    """LLaVA-1.5 that keeps the class token, of two layers; Mistral, several files."""
    tokenizer = make_tokenizer()
    return _save_llava(
        folder,
        tokenizer,
        text(MistralConfig, tokenizer, sliding_window=None),
        vision_feature_layer=[1, -2],
        vision_feature_select_strategy="full",
        max_shard_size="50KB",
    )


def onevision(folder: Path) -> Path:
    """LLaVA-OneVision: SigLIP, Qwen2, a plane that is shrunk to two tiles; tied embeddings."""
    tokenizer = make_chatml_tokenizer()
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(
            size={"height": ONEVISION_TILE_PX, "width": ONEVISION_TILE_PX},
            image_grid_pinpoints=ONEVISION_PINPOINTS,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer,
        num_image_tokens=SIDE_PATCHES**2,
        vision_feature_select_strategy="full",
        chat_template=CHATML_TEMPLATE,
        vision_aspect_ratio=ASPECT_RATIO,
    )
    config = LlavaOnevisionConfig(
        vision_config=siglip(ONEVISION_TILE_PX, vision_use_head=False),
        text_config=text(Qwen2Config, tokenizer, tie_word_embeddings=True),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=ONEVISION_PINPOINTS,
        vision_aspect_ratio=ASPECT_RATIO,
    )
    return save(folder, processor, config)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "llava": llava,
    "llava, full": llava_full,
    "llava_onevision": onevision,
}
"""What tests take apart; tests/model_prep/layouts/ has every kind as it is published."""


def _save_llava(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    language: PretrainedConfig,
    chat_template: str = CHAT_TEMPLATE,
    max_shard_size: str = "5GB",
    **variation: Any,
) -> Path:
    """`variation` overrides LlavaConfig's parameters."""
    parameters: dict[str, Any] = {
        "vision_config": clip(),
        "text_config": language,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": SIDE_PATCHES**2,
    }
    config = LlavaConfig(**(parameters | variation))
    has_class_token = config.vision_config.model_type == "clip_vision_model"
    side = {"height": TILE_PX, "width": TILE_PX}
    images = (
        CLIPImageProcessorPil(size={"shortest_edge": TILE_PX}, crop_size=side)
        if has_class_token
        else SiglipImageProcessorPil(size=side)
    )
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(has_class_token),
        chat_template=chat_template,
    )
    return save(folder, processor, config, max_shard_size=max_shard_size)


def save(
    folder: Path,
    processor: ProcessorMixin,
    config: PretrainedConfig,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    ends: list[int] | None = None,
) -> Path:
    """Write a model of `config` and random weights with its processor; return `folder`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=WEIGHT_STD)
                else:
                    weight.add_(torch.randn_like(weight), alpha=WEIGHT_STD)
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends or tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    processor.save_pretrained(folder)
    return folder
