"""Makes tiny LLaVA-NeXT checkpoints with random weights for the tests; knows nothing of OpenVINO.

There are two that have little in common: the tiny one has Mistral's grouped heads, the other one Llama's,
tied embeddings, heads wider than hidden / heads, features of two vision layers, two end-of-sequence tokens, a
chat template with a generation prompt, and tiles and patches of other sizes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

TILE_PX = 56
PATCH_PX = 14
GRID_PINPOINTS = [[56, 112], [112, 56], [112, 112], [56, 168], [168, 56], [112, 168], [168, 112]]
OTHER_TILE_PX = 60
OTHER_PATCH_PX = 12
OTHER_PINPOINTS = [[60, 60], [60, 120], [120, 60], [120, 120], [180, 120], [120, 240]]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<image>", "<pad>"]
TEXTS = [
    "What is shown in this image?",
    "How many red circles are there in the picture?",
    "Is the blue square to the left of the green triangle? Answer yes or no.",
    "[INST] Describe the image in one sentence. [/INST] A large red circle is above a small blue square.",
]
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- set parts = message['content'] %}"
    "{%- if parts is string %}{%- set parts = [{'type': 'text', 'text': parts}] %}{%- endif %}"
    "{%- if message['role'] == 'system' %}{{ '<<SYS>>\\n' }}"
    "{%- elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{%- elif message['role'] == 'assistant' %}{{ ' ' }}"
    "{%- else %}{{ raise_exception('Only system, user and assistant turns are supported') }}{%- endif %}"
    "{%- for part in parts %}"
    "{%- if part['type'] == 'image' %}{{ '<image>\\n' }}{%- else %}{{ part['text'] }}{%- endif %}"
    "{%- endfor %}"
    "{%- if message['role'] == 'system' %}{{ '\\n<</SYS>>\\n\\n' }}"
    "{%- elif message['role'] == 'user' %}{{ ' [/INST]' }}"
    "{%- else %}{{ eos_token }}{%- endif %}"
    "{%- endfor %}"
)
OTHER_CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ {'system': '', 'user': 'USER: ', 'assistant': 'ASSISTANT: '}[message['role']] }}"
    "{%- set parts = message['content'] %}"
    "{%- if parts is string %}{%- set parts = [{'type': 'text', 'text': parts}] %}{%- endif %}"
    "{%- for part in parts %}"
    "{%- if part['type'] == 'image' %}{{ '<image>\n' }}{%- else %}{{ part['text'] }}{%- endif %}"
    "{%- endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{%- endif %}"
)
WEIGHT_STD = 0.15
"""Wide enough that the logits of a random model differ clearly from token to token."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 320 tokens that puts <s> before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def make_processor(
    tile_px: int = TILE_PX,
    patch_px: int = PATCH_PX,
    pinpoints: Sequence[Sequence[int]] = GRID_PINPOINTS,
    chat_template: str = CHAT_TEMPLATE,
) -> LlavaNextProcessor:
    """The tiny checkpoint's processor: 56 px tiles, wide and tall pinpoints, LLaVA's template; or another."""
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": tile_px},
        crop_size={"height": tile_px, "width": tile_px},
        image_grid_pinpoints=pinpoints,
    )
    return LlavaNextProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=patch_px,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def make_config(processor: LlavaNextProcessor, **variation: Any) -> LlavaNextConfig:
    """The tiny checkpoint's config; `variation` overrides LlavaNextConfig's own parameters."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=TILE_PX,
        patch_size=PATCH_PX,
    )
    text = MistralConfig(
        vocab_size=len(tokenizer) + 7,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    parameters: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_grid_pinpoints": GRID_PINPOINTS,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (TILE_PX // PATCH_PX) ** 2,
        "tie_word_embeddings": False,
    }
    return LlavaNextConfig(**(parameters | variation))


def make_tiny_checkpoint(
    folder: Path, seed: int = 0, dtype: Literal["float32", "float16"] = "float32", **variation: Any
) -> Path:
    """Write a random-weight LLaVA-NeXT checkpoint with processor and tokenizer into `folder`; return it.

    `variation` overrides parameters of LlavaNextConfig. The same seed gives the same weights.
    """
    processor = make_processor()
    return _save(folder, processor, make_config(processor, **variation), seed, dtype)


def make_other_checkpoint(folder: Path, seed: int = 0) -> Path:
    """As make_tiny_checkpoint, but different in everything that a config names."""
    processor = make_processor(OTHER_TILE_PX, OTHER_PATCH_PX, OTHER_PINPOINTS, OTHER_CHAT_TEMPLATE)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=OTHER_TILE_PX,
        patch_size=OTHER_PATCH_PX,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=768,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = make_config(
        processor,
        vision_config=vision,
        text_config=text,
        image_grid_pinpoints=OTHER_PINPOINTS,
        vision_feature_layer=[-3, -1],
        image_seq_length=(OTHER_TILE_PX // OTHER_PATCH_PX) ** 2,
        tie_word_embeddings=True,
    )
    end = tokenizer.convert_tokens_to_ids(".")
    return _save(folder, processor, config, seed, "float32", eos_token_id=[tokenizer.eos_token_id, end])


def _save(
    folder: Path,
    processor: LlavaNextProcessor,
    config: LlavaNextConfig,
    seed: int,
    dtype: Literal["float32", "float16"],
    **generation: Any,
) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlavaNextForConditionalGeneration(config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 or name.endswith(("image_newline", "class_embedding")):
                    weight.normal_(std=WEIGHT_STD)
    tokenizer = processor.tokenizer
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.generation_config = GenerationConfig(**(tokens | generation))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
