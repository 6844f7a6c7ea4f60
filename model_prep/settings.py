"""The settings of a conversion, and named presets; knows no model."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from contract.base import Contract
from contract.model_folder import VisionFormat, WeightFormat

BUILTIN: Final = "builtin"
"""Name of the built-in set as a source of calibration images."""


class LanguageSettings(Contract):
    """How the weights of the language model and of the token embeddings are stored."""

    weight_format: WeightFormat = "fp16"
    group_size: Literal[-1] | Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="int4: weights per scale; -1 is a whole output channel"
    )
    ratio: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="int4: share of the weights in 4 bits; the others are in 8 bits"
    )
    sym: bool | None = Field(default=None, description="int4 without zero points")
    awq: bool = Field(default=False, description="int4: scale activations first, by calibration")
    scale_estimation: bool = Field(default=False, description="int4: fit the scales, by calibration")
    activations: Literal["int8"] | None = Field(
        default=None, description="int8: quantize activations too, so that matrices multiply in 8 bits"
    )
    kept_layers: tuple[str, ...] = Field(
        default=(), description="int8 activations: layers that stay in 16 bits, as in model_prep.layer_names"
    )

    @model_validator(mode="after")
    def _int8_alone(self) -> Self:
        if self.weight_format != "int8" and self.activations is not None:
            raise ValueError("activations decides nothing without weight_format int8")
        if self.activations is None and self.kept_layers:
            raise ValueError("kept_layers decides nothing without activations int8")
        return self

    @model_validator(mode="after")
    def _int4_alone(self) -> Self:
        given = self.model_fields_set - {"weight_format", "activations", "kept_layers"}
        only_int4 = sorted(name for name in given if getattr(self, name) not in (None, False))
        if self.weight_format != "int4" and only_int4:
            raise ValueError(f"{', '.join(only_int4)} decide nothing without weight_format int4")
        return self

    @property
    def needs_calibration(self) -> bool:
        return self.awq or self.scale_estimation or self.activations is not None


class VisionSettings(Contract):
    """How vision tower and projector compute."""

    vision_format: VisionFormat = "fp16"
    smooth_quant_alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="int8: share of the activations' range moved into the weights"
    )
    kept_layers: tuple[str, ...] = Field(
        default=(), description="int8: layers that stay in 16 bits, as in model_prep.layer_names"
    )

    @model_validator(mode="after")
    def _int8_alone(self) -> Self:
        if self.vision_format != "int8" and self.smooth_quant_alpha is not None:
            raise ValueError("smooth_quant_alpha decides nothing without vision_format int8")
        if self.vision_format != "int8" and self.kept_layers:
            raise ValueError("kept_layers decides nothing without vision_format int8")
        return self

    @property
    def needs_calibration(self) -> bool:
        """int8 quantizes activations, which needs calibration."""
        return self.vision_format == "int8"


VerifyDepth = Literal["full", "quick", "none"]
Step = Literal["check", "export", "compress", "verify"]
"""Step after which a conversion may stop, its parts kept in the work folder. check reads no weights."""


class PrepSettings(Contract):
    """All settings of a conversion, as the manifest records them."""

    language: LanguageSettings = LanguageSettings()
    vision: VisionSettings = VisionSettings()
    dynamic_quantization_group_size: int | None = Field(
        default=None,
        ge=0,
        description="for workers: activations per scale; None is OpenVINO's choice",
    )
    openvino_tokenizer: bool = Field(
        default=False, description="also write the tokenizer as OpenVINO models, which OpenVINO GenAI reads"
    )
    verify: VerifyDepth = Field(
        default="quick",
        description="what is compared: full is all images; quick is at least a part of one, and more as a "
        "quarter of the time for exporting and compressing allows; none is nothing",
    )
    samples: int = Field(default=50, ge=1, description="images to calibrate with")
    within_bounds: bool = Field(
        default=False,
        description="8 bits only where they lose at most what model_prep.verified.BOUNDS allow, else 16 bits",
    )

    @property
    def needs_calibration(self) -> bool:
        return self.language.needs_calibration or self.vision.needs_calibration

    @property
    def format_name(self) -> str:
        """The formats of language and vision model, one word if they are equal."""
        language, vision = self.language.weight_format, self.vision.vision_format
        return language if language == vision else f"{language}-vision-{vision}"

    @property
    def properties(self) -> dict[str, str]:
        """OpenVINO properties for workers to compile the folder with."""
        if self.dynamic_quantization_group_size is None:
            return {}
        return {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(self.dynamic_quantization_group_size)}


PresetName = Literal["auto", "balanced", "fast", "exact", "tutorial"]
PRESETS: Final[dict[PresetName, PrepSettings]] = {
    "auto": PrepSettings(
        language=LanguageSettings(weight_format="int8", activations="int8"),
        vision=VisionSettings(vision_format="int8"),
        within_bounds=True,
    ),
    "exact": PrepSettings(
        language=LanguageSettings(weight_format="fp32"), vision=VisionSettings(vision_format="fp32")
    ),
    "balanced": PrepSettings(),
    "fast": PrepSettings(
        language=LanguageSettings(weight_format="int8", activations="int8"),
        vision=VisionSettings(vision_format="int8"),
    ),
    "tutorial": PrepSettings(
        language=LanguageSettings(weight_format="int4", group_size=64, ratio=0.6, sym=True),
        vision=VisionSettings(vision_format="int8", smooth_quant_alpha=0.6),
    ),
}
