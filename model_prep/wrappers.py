"""The torch modules to trace, one for each part of a model folder; know no OpenVINO."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

MASKED = torch.finfo(torch.float16).min
"""Value of a masked position: finite in float16, so that a fully masked row gives no NaN."""

KeyValue = tuple[Tensor, Tensor]


class VisionEmbeddings(nn.Module):
    """Vision tower and projector: features of the layers and tokens that the config selects."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.projector = model.model.multi_modal_projector
        layer = model.config.vision_feature_layer
        self.layers = [layer] if isinstance(layer, int) else list(layer)
        # "default" leaves out the first token, even of a tower without a class token.
        # It is also the strategy of a family without this field.
        strategy = getattr(model.config, "vision_feature_select_strategy", "default")
        self.first = 1 if strategy == "default" else 0

    def forward(self, pixel_values: Tensor) -> Tensor:
        """pixel_values (tile, 3, height, width) → features (tile, patch, hidden)."""
        states = self.tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        selected = torch.cat([states[layer] for layer in self.layers], dim=-1)
        features: Tensor = self.projector(selected[:, self.first :])
        return features


class TextEmbeddings(nn.Module):
    """The token embedding table."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.table = model.get_input_embeddings()

    def forward(self, token_ids: Tensor) -> Tensor:
        """token_ids (row, position) int64 → inputs_embeds (row, position, hidden)."""
        embeds: Tensor = self.table(token_ids)
        return embeds


class LanguageModel(nn.Module):
    """The decoder with its cache as inputs and outputs; returns logits of the last position only."""

    def __init__(
        self, decoder: nn.Module, lm_head: nn.Module, axes: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """`axes` maps position_ids to the decoder's, if they differ."""
        super().__init__()
        self.axes = axes
        self.decoder = decoder
        self.lm_head = lm_head

    def forward(
        self,
        attention_mask: Tensor,
        position_ids: Tensor,
        inputs_embeds: Tensor,
        past_key_values: list[KeyValue],
    ) -> tuple[Tensor, ...]:
        """One step for all rows.

        attention_mask (row, past + position) int64, position_ids (row, position) int64, inputs_embeds
        (row, position, hidden), past_key_values per layer two of (row, kv_head, past, head_dim)
        → logits (row, 1, vocabulary), then each layer's keys and values with the new positions appended.
        """
        cache = DynamicCache()
        for keys, values in past_key_values:
            cache.layers.append(_filled_layer(keys, values))
        hidden = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=causal_mask(attention_mask, inputs_embeds.shape[1]),
            position_ids=position_ids if self.axes is None else self.axes(position_ids),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits = self.lm_head(hidden[:, -1:, :])
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (logits, *present)


def causal_mask(attention_mask: Tensor, positions: int) -> Tensor:
    """attention_mask (row, past + position) → additive float mask (row, 1, position, past + position).

    The mask of transformers would be traced into a graph that is four times slower.
    """
    total = attention_mask.shape[1]
    key = torch.arange(total)
    query = key[total - positions :]
    visible = (key[None, :] <= query[:, None])[None, None] & (attention_mask[:, None, None, :] > 0)
    return torch.where(visible, torch.tensor(0.0), torch.tensor(MASKED))


def _filled_layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    """A cache layer that holds tensors: an empty one is traced as a concat that OpenVINO cannot convert."""
    layer = DynamicLayer()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer
