"""The demo model's dimensions, as transformers' configs."""

from typing import Final

from transformers import CLIPVisionConfig, LlavaNextConfig, MistralConfig

TILE_PX: Final = 56
PATCH_PX: Final = 14
PATCHES: Final = (TILE_PX // PATCH_PX) ** 2
PINPOINTS: Final = [[56, 112], [112, 56], [112, 112], [56, 168], [168, 56]]
"""Grids as (height, width) in pixels: 1×2, 2×1, 2×2, 1×3 and 3×1 tiles."""
HIDDEN: Final = 256
USED_VISION_LAYERS: Final = 5

BOS, EOS, UNK, PAD, IMAGE = "<s>", "</s>", "<unk>", "<pad>", "<image>"
SPECIAL_TOKENS: Final = (UNK, BOS, EOS, PAD, IMAGE)


def vision_config(layers: int = USED_VISION_LAYERS + 1) -> CLIPVisionConfig:
    """The vision tower; image features come from the last layer but one, as in LLaVA."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=layers,
        num_attention_heads=6,
        image_size=TILE_PX,
        patch_size=PATCH_PX,
        projection_dim=192,
    )


def model_config(vocabulary: int) -> LlavaNextConfig:
    """The whole model, for a tokenizer of `vocabulary` tokens."""
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    text = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        sliding_window=None,
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        pad_token_id=ids[PAD],
        tie_word_embeddings=False,
    )
    return LlavaNextConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=ids[IMAGE],
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
        tie_word_embeddings=False,
    )
