"""Opens a Hugging Face checkpoint of a supported family, refuses any other before reading weights.

Knows no OpenVINO.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin

from model_prep.family import FAMILIES, Family
from model_prep.refusal import ConversionError

ASPECT_RATIO = re.compile(r"anyres_max_[1-9]\d*")
LENGTH_BOUND_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies depend on how long the prompt is; a traced graph has one set."""


@dataclass(frozen=True)
class ParameterCounts:
    """How many numbers the parts of a checkpoint have."""

    vision: int
    """with the projector"""
    embeddings: int
    layer: int
    """one of the decoder's"""
    head: int
    language: int
    """layers, norms and head"""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted, its weights not read yet."""

    source: str
    config: PretrainedConfig
    parameters: ParameterCounts

    @property
    def family(self) -> Family:
        return FAMILIES[self.config.model_type]

    @property
    def name(self) -> str:
        """The hub id, or a local folder's own name: where it lies is nobody else's concern."""
        return Path(self.source).resolve().name if Path(self.source).exists() else self.source


def open_checkpoint(source: str) -> Checkpoint:
    """Read the config of a local folder or hub id. Raises ConversionError if it cannot be converted."""
    raw = _read_config(source)
    family = _family(raw)
    _require_part(raw, "text_config", "language model", family.text_model_types)
    _require_part(raw, "vision_config", "vision tower", family.vision_model_types)
    try:
        config = family.config.from_dict(raw)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ConversionError(f"The config of {source} is not valid: {_reason(error)}") from error
    _require_packing(config, family)
    _require_attention(source, config.text_config)
    with torch.device("meta"):
        skeleton = family.model(config)
    return Checkpoint(source, config, count_parameters(skeleton))


def count_parameters(model: Any) -> ParameterCounts:
    """Of a model whose weights may be on no device."""

    def size(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    inner = model.model
    embeddings, head = size(model.get_input_embeddings()), size(model.lm_head)
    return ParameterCounts(
        vision=size(inner.vision_tower) + size(inner.multi_modal_projector),
        embeddings=embeddings,
        layer=size(inner.language_model.layers[0]),
        head=head,
        language=size(inner.language_model) - embeddings + head,
    )


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> PreTrainedModel:
    """Read the weights as `dtype`; "auto" maps them into memory as they are stored.

    Raises ConversionError if any is missing or of another shape.
    """
    try:
        model, loading = checkpoint.family.model.from_pretrained(
            checkpoint.source,
            config=checkpoint.config,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ConversionError(
            f"The weights of {checkpoint.source} cannot be read: {_reason(error)}"
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConversionError(
            f"{checkpoint.source} lacks {len(missing)} weights, the first one {missing[0]}."
        )
    model.eval()
    return model


def load_processor(source: str) -> ProcessorMixin:
    """Read processor, tokenizer and chat template. Raises ConversionError if one of them is missing."""
    try:
        processor = _family(_read_config(source)).processor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConversionError(f"The processor of {source} cannot be read: {_reason(error)}") from error
    if not processor.chat_template:
        raise ConversionError(f"{source} has no chat template, and prompts are made from it alone.")
    if not processor.tokenizer.is_fast:
        raise ConversionError(f"{source} has no tokenizer.json, the one form a worker reads.")
    return processor


def _family(raw: dict[str, Any]) -> Family:
    """By model_type. LLaVA's own repositories use the same with classes and weights that are others."""
    _require("architecture", raw.get("model_type"), tuple(FAMILIES))
    family = FAMILIES[raw["model_type"]]
    for architecture in raw.get("architectures") or ():
        _require("architecture", architecture, (family.model.__name__,))
    return family


def _require_part(raw: dict[str, Any], part: str, what: str, supported: tuple[str, ...]) -> None:
    """Asked before the config is made, which would name an unknown model_type among hundreds."""
    config = raw.get(part)
    if isinstance(config, dict) and "model_type" in config:
        _require(what, config["model_type"], supported)


def _require_packing(config: PretrainedConfig, family: Family) -> None:
    """Features must be laid out as a worker packs them, and as transformers itself can."""
    _require(
        "vision_feature_select_strategy",
        config.vision_feature_select_strategy,
        family.select_strategies(config.vision_config.model_type),
    )
    # Asked of the class: an entry of that name in another family's config decides nothing.
    if not hasattr(family.config, "vision_aspect_ratio"):
        return
    if not ASPECT_RATIO.fullmatch(config.vision_aspect_ratio):
        _require("vision_aspect_ratio", config.vision_aspect_ratio, ("anyres_max_N",))


def _require_attention(source: str, text: PretrainedConfig) -> None:
    """Every token must see all before it, at angles that do not depend on how many follow."""
    window = getattr(text, "sliding_window", None)
    slides = "sliding_attention" in (getattr(text, "layer_types", None) or ("sliding_attention",))
    context = text.max_position_embeddings
    if window is not None and slides and window < context:
        raise ConversionError(
            f"Sliding windows are not supported; {source} has one, {window} of {context} tokens."
        )
    rope_type = (text.rope_parameters or {}).get("rope_type")
    if rope_type in LENGTH_BOUND_ROPE:
        raise ConversionError(
            f"Rotary embeddings of type {rope_type!r} are not supported: they change with a prompt's length."
        )


def _read_config(source: str) -> dict[str, Any]:
    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise ConversionError(f"{source} is not a checkpoint: it is no folder with a config.json.")
    try:
        raw, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError, HFValidationError) as error:
        raise ConversionError(f"{source} is not a checkpoint: {_reason(error)}") from error
    return dict(raw)


def _require(what: str, found: object, supported: tuple[str, ...]) -> None:
    if found not in supported:
        raise ConversionError(f"The {what} {found!r} is not supported; supported: {', '.join(supported)}.")


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
