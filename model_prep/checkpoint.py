"""Opens a checkpoint, and refuses an unsupported one before reading its weights; knows no OpenVINO."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from contract.model_folder import Packing, side_px
from model_prep.families import DO_NOT_FIT, FAMILIES, TESTED_LANGUAGE_MODELS
from model_prep.families.family import Family, Parts
from model_prep.original import OriginalLayout, is_original, open_original
from model_prep.reading import AS_IT_SAYS, Reading
from model_prep.refusal import ConversionError, refusing
from model_prep.source import Source

ASPECT_RATIO = re.compile(r"anyres_max_[1-9]\d*")
LENGTH_BOUND_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies depend on the prompt's length, which a traced graph cannot have."""


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters of a checkpoint's parts."""

    vision: int
    """Vision tower and projector."""
    embeddings: int
    layer: int
    """One layer of the decoder."""
    head: int
    language: int
    """Layers, norms and head."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be converted; its weights are not read yet."""

    source: str
    raw: dict[str, Any]
    """config.json in transformers' layout."""
    config: PretrainedConfig
    parameters: ParameterCounts
    attention: str
    """transformers' attention implementation for the language model."""
    original: OriginalLayout | None = None
    """Reader of the weights, for a checkpoint in LLaVA's own layout."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.config.model_type]

    @property
    def packing(self) -> Packing:
        return self.family.packing_of(self.config.vision_config.model_type)

    @property
    def name(self) -> str:
        """The hub id, or the name of a local folder without its private path."""
        return Path(self.source).resolve().name if Path(self.source).exists() else self.source

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of its files."""
        return (Path(self.source), *(() if self.original is None else (self.original.tower,)))

    @property
    def tower_sources(self) -> tuple[Source, ...]:
        """The source of its vision tower, if that is a separate checkpoint."""
        return () if self.original is None else (self.original.tower_source,)

    def says(self, field: str) -> bool:
        """Whether config.json has the field."""
        return self.raw.get(field) is not None

    def read_processor(self) -> ProcessorMixin:
        """The processor in the checkpoint's files. May raise any exception."""
        if self.original is not None:
            return self.original.read_processor()
        processor = self.family.processor_of(self.config.vision_config.model_type)
        return processor.from_pretrained(self.source)


def open_checkpoint(source: str, reading: Reading = AS_IT_SAYS) -> Checkpoint:
    """Open a local folder by its config. Raises ConversionError if it cannot be converted."""
    raw, original = read_config(source), None
    if "auto_map" in raw:
        raise ConversionError(
            f"{source} brings code of its own (auto_map in config.json), which is never run."
        )
    require_unquantized(raw, source)
    if is_original(raw):
        with refusing(f"The config of {source} is not valid"):
            raw, original = open_original(raw, source, reading.vision_tower)
    elif reading.vision_tower is not None:
        raise ConversionError(
            f"--vision-tower decides nothing: {source} has its own, being in transformers' layout."
        )
    family = _family(raw)
    _require_part(raw, "text_config", "language model", _language_models(reading), _UNTESTED)
    _require_part(raw, "vision_config", "vision tower", family.towers)
    config = _config(family, raw, source)
    with torch.device("meta"), refusing(f"The config of {source} is not valid"):
        skeleton = family.model(config)
        counts = count_parameters(skeleton, family.parts)
    attention = "sdpa" if skeleton.model.get_submodule(family.parts.decoder)._supports_sdpa else "eager"
    return Checkpoint(source, raw, config, counts, attention, original)


def count_parameters(model: Any, parts: Parts) -> ParameterCounts:
    """The parameter counts of a model, which may be on the meta device."""

    def size(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    vision = [model.model.get_submodule(name) for name in sorted({parts.tower, parts.projector})]
    decoder = model.model.get_submodule(parts.decoder)
    embeddings, head = size(model.get_input_embeddings()), size(model.lm_head)
    return ParameterCounts(
        vision=sum(map(size, vision)),
        embeddings=embeddings,
        layer=size(decoder.layers[0]),
        head=head,
        language=size(decoder) - embeddings + head,
    )


def load_model(
    checkpoint: Checkpoint, dtype: torch.dtype | Literal["auto"] = torch.float32
) -> PreTrainedModel:
    """Load the model with weights of `dtype`; "auto" maps them into memory as stored.

    Raises ConversionError if a weight is missing or has another shape.
    """
    original = checkpoint.original
    with refusing(f"The weights of {checkpoint.source} cannot be read"):
        model, loading = checkpoint.family.model.from_pretrained(
            checkpoint.source if original is None else None,
            config=checkpoint.config,
            state_dict=None if original is None else original.state_dict(),
            dtype=dtype,
            attn_implementation={"": "sdpa", "text_config": checkpoint.attention, "vision_config": "sdpa"},
            output_loading_info=True,
            weights_only=True,
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ConversionError(
            f"{checkpoint.source} lacks {len(missing)} weights, the first one {missing[0]}."
        )
    model.eval()
    return model


def read_config(source: str) -> dict[str, Any]:
    """config.json of a folder. Raises ConversionError if it is missing or unreadable."""
    if not (Path(source) / "config.json").is_file():
        raise ConversionError(f"{source} is not a checkpoint: it is no folder with a config.json.")
    with refusing(f"{source} is not a checkpoint"):
        raw, _ = PretrainedConfig.get_config_dict(source)
    return dict(raw)


def require_unquantized(raw: dict[str, Any], source: str) -> None:
    """Raise ConversionError for weights that are already quantized for another engine."""
    parts = (raw, *(raw.get(part) for part in ("text_config", "vision_config")))
    found = [part["quantization_config"] for part in parts if isinstance(part, dict) and _quantized(part)]
    if not found:
        return
    method = (
        found[0].get("quant_method") or "another engine" if isinstance(found[0], dict) else "another engine"
    )
    base = raw.get("_name_or_path")
    base = base if isinstance(base, str) and base.strip("./") and base != source else None
    unquantized = f"{base}, from which it was made" if base else "the checkpoint from which it was made"
    raise ConversionError(
        f"The weights of {source} are quantized for {method or 'another engine'}, "
        f"which lost precision; convert {unquantized}."
    )


_UNTESTED: Final = "--allow-untested converts another one of transformers, and its verification decides"


def _quantized(part: dict[str, Any]) -> bool:
    return part.get("quantization_config") is not None


def _language_models(reading: Reading) -> tuple[str, ...]:
    return tuple(CONFIG_MAPPING) if reading.allow_untested else TESTED_LANGUAGE_MODELS


def _config(family: Family, raw: dict[str, Any], source: str) -> PretrainedConfig:
    """The config read by transformers, checked for everything that a worker needs."""
    with refusing(f"The config of {source} is not valid"):
        config = family.config.from_dict(raw)
        _require_packing(config, family)
        _require_rope(config.text_config)
        _require_numbers(config)
    return config


def _family(raw: dict[str, Any]) -> Family:
    """The family by model_type and architecture: LLaVA's own layout has the same model_type."""
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in DO_NOT_FIT:
        raise ConversionError(f"The architecture {model_type!r} is not supported: {DO_NOT_FIT[model_type]}.")
    _require("architecture", model_type, tuple(FAMILIES))
    family = FAMILIES[raw["model_type"]]
    architectures = raw.get("architectures") or []
    for architecture in architectures if isinstance(architectures, list) else [architectures]:
        _require("architecture", architecture, (family.model.__name__,))
    return family


def _require_part(
    raw: dict[str, Any], part: str, what: str, supported: tuple[str, ...], otherwise: str | None = None
) -> None:
    """Check a part's model_type first: transformers would list hundreds of them for an unknown one."""
    config = raw.get(part)
    if isinstance(config, dict) and "model_type" in config:
        _require(what, config["model_type"], supported, otherwise)


def _require_packing(config: PretrainedConfig, family: Family) -> None:
    """Raise ConversionError unless a worker can pack image features as this config asks."""
    if hasattr(config, "vision_feature_select_strategy"):
        _require(
            "vision_feature_select_strategy",
            config.vision_feature_select_strategy,
            family.select_strategies(config.vision_config.model_type),
        )
    # Ask the class: in another family's config, a field of that name has no effect.
    if not hasattr(family.config, "vision_aspect_ratio"):
        return
    if not ASPECT_RATIO.fullmatch(config.vision_aspect_ratio):
        _require("vision_aspect_ratio", config.vision_aspect_ratio, ("anyres_max_N",))


def _require_rope(text: PretrainedConfig) -> None:
    """Raise ConversionError for rotary embeddings that depend on the prompt's length."""
    rope_type = (getattr(text, "rope_parameters", None) or {}).get("rope_type")
    if rope_type in LENGTH_BOUND_ROPE:
        raise ConversionError(
            f"Rotary embeddings of type {rope_type!r} are not supported: they change with a prompt's length."
        )


def _require_numbers(config: PretrainedConfig) -> None:
    """Check the numbers that a worker reads from the config. Raises ValueError."""
    text, vision = config.text_config, config.vision_config
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(context, int) or context <= 0:
        raise ValueError(f"max_position_embeddings is {context!r}.")
    if FAMILIES[config.model_type].packing != "grid":
        side_px(vision, "image_size")
    side_px(vision, "patch_size")
    if not isinstance(config.image_token_id, int):
        raise ValueError(f"image_token_index is {config.image_token_id!r}.")


def _require(what: str, found: object, supported: tuple[str, ...], otherwise: str | None = None) -> None:
    if found not in supported:
        named = f"The {what} {found!r} is not supported; supported: {', '.join(supported)}"
        raise ConversionError(f"{named}; {otherwise}." if otherwise else f"{named}.")
