"""Idefics3 and SmolVLM: tiles of an image, each after a text with its row and column, and the whole image."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import (
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PretrainedConfig,
    PreTrainedModel,
    SmolVLMForConditionalGeneration,
)

from contract.model_folder import TileMarks, side_px
from model_prep.families.family import Family, Parts
from model_prep.families.smolvlm_processor import SmolVLMProcessor

PARTS: Final = Parts(tower="vision_model", projector="connector", decoder="text_model")


class SplitVision(nn.Module):
    """Vision tower and connector, for tiles without padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower = model.model.vision_model
        self.connector = model.model.connector
        # Record the tower's position ids of a full tile: it computes them by fractions, which round.
        seen: list[Tensor] = []
        embeddings = self.tower.embeddings
        hook = embeddings.position_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        side = embeddings.num_patches_per_side
        tile = embeddings.patch_embedding.weight.new_zeros(1, 3, embeddings.image_size, embeddings.image_size)
        with torch.no_grad():
            embeddings(tile, torch.ones(1, side, side, dtype=torch.bool, device=tile.device))
        hook.remove()
        self.positions = seen[0]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (tile, 3, height, width) → features (tile, patch, hidden)."""
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        states = patches + embeddings.position_embedding(self.positions)
        states = self.tower.encoder(inputs_embeds=states, attention_mask=None).last_hidden_state
        features: Tensor = self.connector(self.tower.post_layernorm(states))
        return features


def _numbers(config: PretrainedConfig) -> dict[str, object]:
    side = side_px(config.vision_config, "image_size") // side_px(config.vision_config, "patch_size")
    return {"image_seq_len": side**2 // config.scale_factor**2}


def _marks(processor: Any) -> TileMarks:
    around = processor.fake_image_token
    whole = getattr(processor, "global_image_token", None) or processor.global_image_tag
    return TileMarks(
        tile=around + "<row_{row}_col_{column}>", row_end="\n", grid_end="\n", base=around + whole, end=around
    )


IDEFICS3: Final = Family(
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    packing="tiles",
    towers=("idefics3_vision", "idefics3"),
    parts=PARTS,
    vision=SplitVision,
    numbers=_numbers,
    marks=_marks,
)
SMOLVLM: Final = Family(
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
    packing="tiles",
    towers=("smolvlm_vision",),
    parts=PARTS,
    vision=SplitVision,
    numbers=_numbers,
    marks=_marks,
)
