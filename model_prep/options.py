"""Command-line options of a conversion; loads nothing heavy."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError

from contract.model_folder import VisionFormat, WeightFormat
from model_prep.conversations import CONVERSATIONS
from model_prep.reading import Reading
from model_prep.refusal import ConversionError
from model_prep.settings import (
    PRESETS,
    LanguageSettings,
    PrepSettings,
    PresetName,
    Step,
    VerifyDepth,
    VisionSettings,
)

Format = TypeVar("Format", LanguageSettings, VisionSettings)


@dataclass(frozen=True)
class ConversionOptions:
    """Every option except the folder to write; None where an option was not given."""

    preset: Annotated[PresetName, typer.Option(help="Settings that the other options change.")] = "balanced"
    weight_format: Annotated[
        WeightFormat | None, typer.Option(help="How the language model's weights are stored.")
    ] = None
    group_size: Annotated[
        int | None, typer.Option(help="int4: weights per scale; -1 is a whole output channel.")
    ] = None
    ratio: Annotated[float | None, typer.Option(help="int4: share of the weights in 4 bits.")] = None
    sym: Annotated[bool | None, typer.Option("--sym/--asym", help="int4: without or with zero points.")] = (
        None
    )
    awq: Annotated[bool | None, typer.Option("--awq/--no-awq", help="int4: AWQ, by calibration.")] = None
    scale_estimation: Annotated[
        bool | None,
        typer.Option("--scale-estimation/--no-scale-estimation", help="int4: fit scales, by calibration."),
    ] = None
    quantize_activations: Annotated[
        bool | None,
        typer.Option(
            "--quantize-activations/--weights-alone",
            help="int8: the language model multiplies in 8 bits, by calibration.",
        ),
    ] = None
    vision_format: Annotated[
        VisionFormat | None,
        typer.Option(help="How the vision model is stored; int8 also computes in 8 bits, by calibration."),
    ] = None
    smooth_quant_alpha: Annotated[
        float | None, typer.Option(help="int8 vision: share of the activations' range put into the weights.")
    ] = None
    dynamic_quantization_group_size: Annotated[
        int | None, typer.Option(help="Group size of dynamic quantization in workers.")
    ] = None
    openvino_tokenizer: Annotated[
        bool, typer.Option("--openvino-tokenizer", help="Also write the tokenizer for OpenVINO GenAI.")
    ] = False
    calibration: Annotated[
        str | None,
        typer.Option(help="Images to calibrate with: folder, manifest, dataset, shards or builtin."),
    ] = None
    samples: Annotated[int | None, typer.Option(help="Number of images to calibrate with.")] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None
    verify: Annotated[
        VerifyDepth,
        typer.Option(
            help="What to compare: full is all images, quick what a quarter of the time so far allows."
        ),
    ] = "quick"
    chat_template: Annotated[
        str | None,
        typer.Option(help=f"Chat template: a file, or one of {', '.join(CONVERSATIONS)}."),
    ] = None
    vision_tower: Annotated[
        str | None,
        typer.Option(help="Vision tower of a checkpoint in LLaVA's own layout, as folder or hub id."),
    ] = None
    allow_untested: Annotated[
        bool, typer.Option("--allow-untested", help="Also convert language models that no test covers.")
    ] = False
    name: Annotated[str | None, typer.Option(help="Name in the model id; by default that of MODEL.")] = None
    stop_after: Annotated[
        Step | None, typer.Option(help="Stop after this step; the next call goes on from there.")
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the content of the model folder.")
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print progress and model id as lines of JSON on stdout.")
    ] = False

    def reading(self) -> Reading:
        """What the checkpoint's files do not say."""
        return Reading(self.chat_template, self.vision_tower, self.allow_untested)

    def settings(self) -> PrepSettings:
        """The preset changed by the given options. Raises ConversionError for an option without effect."""
        preset = PRESETS[self.preset]
        language = {
            name: getattr(self, name)
            for name in ("group_size", "ratio", "sym", "awq", "scale_estimation")
            if getattr(self, name) is not None
        }
        if self.quantize_activations is not None:
            language["activations"] = "int8" if self.quantize_activations else None
        vision = {} if self.smooth_quant_alpha is None else {"smooth_quant_alpha": self.smooth_quant_alpha}
        try:
            # Another format drops the preset's options of its own format.
            return PrepSettings(
                language=_changed(preset.language, "weight_format", self.weight_format, language),
                vision=_changed(preset.vision, "vision_format", self.vision_format, vision),
                dynamic_quantization_group_size=(
                    preset.dynamic_quantization_group_size
                    if self.dynamic_quantization_group_size is None
                    else self.dynamic_quantization_group_size
                ),
                openvino_tokenizer=self.openvino_tokenizer,
                verify=self.verify,
                within_bounds=preset.within_bounds,
                samples=preset.samples if self.samples is None else self.samples,
            )
        except ValidationError as invalid:
            first = invalid.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise ConversionError(f"{place}: {reason}." if place else f"{reason}.") from None


def _changed(preset: Format, field: str, wanted: str | None, options: dict[str, Any]) -> Format:
    kept = {} if wanted is not None and wanted != getattr(preset, field) else preset.model_dump()
    return type(preset).model_validate(kept | ({field: wanted} if wanted else {}) | options)
