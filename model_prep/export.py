"""Traces the parts of a checkpoint into OpenVINO models with the contract's port names; knows no files."""

import gc
import warnings
from collections.abc import Mapping

import openvino
import torch
from openvino import Model, PartialShape
from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as make_16bit_traceable
from torch import nn
from torch.jit._trace import TracerWarning
from transformers import PreTrainedModel

from contract.model_folder import (
    ATTENTION_MASK,
    INPUT_IDS,
    INPUTS_EMBEDS,
    LOGITS,
    PIXEL_VALUES,
    POSITION_IDS,
    side_px,
)
from model_prep.families import FAMILIES
from model_prep.families.family import ROW_TOWERS
from model_prep.stateful import PAST_PREFIX, PRESENT_PREFIX, make_stateful
from model_prep.wrappers import LanguageModel, TextEmbeddings

TRACE_ROWS = 2
TRACE_PAST = 3
TRACE_POSITIONS = 5
"""Sizes of the traced example: all different and not 1, so that no axis becomes a constant."""
TRACE_PATCHES = (3, 4)
"""Rows and columns of patches in the example image, for a tower that takes any size."""
ANY = -1
HALVES = (torch.float16, torch.bfloat16)
VISION_FEATURES = "last_hidden_state"
"""Name of the vision model's output for other readers of such folders."""


def export_vision(model: PreTrainedModel) -> Model:
    """The model pixel_values (tile, 3, height, width) → projected features (tile, patch, hidden).

    Tiles have a fixed size; a tower that reads images of any size takes one tile.
    """
    tower = model.config.vision_config
    family = FAMILIES[model.config.model_type]
    if tower.model_type in ROW_TOWERS or family.packing == "grid":
        side = tower.patch_size * (tower.spatial_merge_size if family.packing == "grid" else 1)
        example, shape = (1, 3, *(number * side for number in TRACE_PATCHES)), [1, 3, ANY, ANY]
    else:
        side = side_px(tower, "image_size")
        example, shape = (TRACE_ROWS, 3, side, side), [ANY, 3, side, side]
    vision = _trace(family.vision(model), {"pixel_values": torch.zeros(example)})
    _name_ports(vision, [PIXEL_VALUES], [VISION_FEATURES])
    vision.reshape({PIXEL_VALUES: PartialShape(shape)})
    return vision


def export_text(model: PreTrainedModel) -> Model:
    """The model input (row, position) int64 → inputs_embeds (row, position, hidden)."""
    example = {"token_ids": torch.zeros(TRACE_ROWS, TRACE_POSITIONS, dtype=torch.int64)}
    text = _trace(TextEmbeddings(model), example)
    _name_ports(text, [INPUT_IDS], [INPUTS_EMBEDS])
    text.reshape({INPUT_IDS: PartialShape([ANY, ANY])})
    return text


def export_language(model: PreTrainedModel) -> Model:
    """The stateful language model, with the ports of contract.model_folder."""
    text = model.config.text_config
    hidden, kv_heads, layers = text.hidden_size, text.num_key_value_heads, text.num_hidden_layers
    head_dim = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    past = torch.zeros(TRACE_ROWS, kv_heads, TRACE_PAST, head_dim)
    positions = torch.arange(TRACE_PAST, TRACE_PAST + TRACE_POSITIONS).expand(TRACE_ROWS, -1)
    example = {
        "attention_mask": torch.ones(TRACE_ROWS, TRACE_PAST + TRACE_POSITIONS, dtype=torch.int64),
        "position_ids": positions,
        "inputs_embeds": torch.zeros(TRACE_ROWS, TRACE_POSITIONS, hidden),
        "past_key_values": [(past, past.clone()) for _ in range(layers)],
    }
    family = FAMILIES[model.config.model_type]
    decoder = model.model.get_submodule(family.parts.decoder)
    language = _trace(LanguageModel(decoder, model.lm_head, family.axes), example)
    states = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    _name_ports(
        language,
        [ATTENTION_MASK, POSITION_IDS, INPUTS_EMBEDS, *(PAST_PREFIX + state for state in states)],
        [LOGITS, *(PRESENT_PREFIX + state for state in states)],
    )
    shapes = {
        ATTENTION_MASK: PartialShape([ANY, ANY]),
        POSITION_IDS: PartialShape([ANY, ANY]),
        INPUTS_EMBEDS: PartialShape([ANY, ANY, hidden]),
    }
    language.reshape(
        shapes | {PAST_PREFIX + state: PartialShape([ANY, kv_heads, ANY, head_dim]) for state in states}
    )
    make_stateful(language)
    return language


def forget_traces() -> None:
    """Free the traces: torch keeps each traced class with its weights, which map the checkpoint."""
    torch._C._jit_clear_class_registry()
    gc.collect()


def _trace(module: nn.Module, example: Mapping[str, object]) -> Model:
    module.eval()
    if any(weight.dtype in HALVES for weight in module.parameters()):
        # Matrices stay in 16 bits and mapped from the checkpoint's files; all else becomes float32.
        make_16bit_traceable(module)
    with torch.no_grad(), warnings.catch_warnings():
        # Wrong assumptions of the tracer show in the parity tests; its warnings are mostly harmless.
        warnings.filterwarnings("ignore", category=TracerWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        return openvino.convert_model(module, example_input=dict(example))


def _name_ports(model: Model, inputs: list[str], outputs: list[str]) -> None:
    """Name the ports in order, as the tracer does not name nested inputs."""
    assert len(model.inputs) == len(inputs), [port.get_names() for port in model.inputs]
    assert len(model.outputs) == len(outputs), [port.get_names() for port in model.outputs]
    for port, name in zip([*model.inputs, *model.outputs], [*inputs, *outputs], strict=True):
        port.get_tensor().set_names({name})
    for port in model.inputs:
        port.get_node().set_friendly_name(port.get_any_name())
