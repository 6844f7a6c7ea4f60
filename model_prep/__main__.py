"""The command line of model preparation; it parses and prints, and knows not how a model is converted."""

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from contract.model_folder import FolderManifest
from model_prep.check import Check, check_folder
from model_prep.convert import STAGE_COUNT, convert
from model_prep.refusal import ConversionError
from model_prep.settings import PRESETS, LanguageSettings, PrepSettings, VisionSettings
from model_prep.verification import VERIFICATION_JSON, Verification

REFUSED_EXIT_CODE = 2
FAILED_EXIT_CODE = 1
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM

Format = TypeVar("Format", LanguageSettings, VisionSettings)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare model folders for Captionmill workers.",
)


class Preset(StrEnum):
    """Names of model_prep.settings.PRESETS."""

    BALANCED = "balanced"
    FAST = "fast"
    EXACT = "exact"
    TUTORIAL = "tutorial"


class WeightFormatChoice(StrEnum):
    """contract.model_folder.WeightFormat, in the form that the command line offers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"


class VisionFormatChoice(StrEnum):
    """contract.model_folder.VisionFormat."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class StepChoice(StrEnum):
    """model_prep.convert.Step."""

    EXPORT = "export"
    COMPRESS = "compress"
    VERIFY = "verify"


@app.command("convert")
def convert_command(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    preset: Annotated[Preset, typer.Option(help="What other options begin from.")] = Preset.BALANCED,
    weight_format: Annotated[
        WeightFormatChoice | None, typer.Option(help="How the language model's weights are stored.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="int4: weights with one scale; -1 is a whole output channel.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="int4: share of the weights in 4 bits.")] = None,
    sym: Annotated[
        bool | None, typer.Option("--sym/--asym", help="int4: without or with zero points.")
    ] = None,
    awq: Annotated[bool | None, typer.Option("--awq/--no-awq", help="int4: AWQ, by calibration.")] = None,
    scale_estimation: Annotated[
        bool | None,
        typer.Option("--scale-estimation/--no-scale-estimation", help="int4: fit scales, by calibration."),
    ] = None,
    quantize_activations: Annotated[
        bool | None,
        typer.Option(
            "--quantize-activations/--weights-alone",
            help="int8: the language model multiplies in 8 bits, by calibration.",
        ),
    ] = None,
    vision_format: Annotated[
        VisionFormatChoice | None,
        typer.Option(help="How the vision model is stored; int8 also computes in 8 bits, by calibration."),
    ] = None,
    smooth_quant_alpha: Annotated[
        float | None, typer.Option(help="int8 vision: share of the activations' range put into the weights.")
    ] = None,
    dynamic_quantization_group_size: Annotated[
        int | None, typer.Option(help="What workers are to read the folder with.")
    ] = None,
    openvino_tokenizer: Annotated[
        bool, typer.Option("--openvino-tokenizer", help="Write the tokenizer for OpenVINO GenAI, too.")
    ] = False,
    calibration: Annotated[
        str | None, typer.Option(help="Images to calibrate with: folder, manifest, dataset or shards.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many of them.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    name: Annotated[str | None, typer.Option(help="Name in the model id; MODEL's own if not given.")] = None,
    stop_after: Annotated[
        StepChoice | None, typer.Option(help="Do no more; the next call goes on from there.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in the model folder.")
    ] = False,
) -> None:
    """Convert a Hugging Face checkpoint of the LLaVA family into a model folder."""
    language: dict[str, Any] = {
        "group_size": group_size,
        "ratio": ratio,
        "sym": sym,
        "awq": awq,
        "scale_estimation": scale_estimation,
    }
    if quantize_activations is not None:
        language["activations"] = "int8" if quantize_activations else None
    try:
        settings = _settings(
            PRESETS[preset.value],
            weight_format,
            {
                option: value
                for option, value in language.items()
                if value is not None or option == "activations"
            },
            vision_format,
            {} if smooth_quant_alpha is None else {"smooth_quant_alpha": smooth_quant_alpha},
            dynamic_quantization_group_size,
            samples,
        ).model_copy(update={"openvino_tokenizer": openvino_tokenizer})
        with _progress() as progress:
            task = progress.add_task("starting", total=STAGE_COUNT, completed=-1)
            manifest = convert(
                model,
                out,
                settings,
                name=name,
                revision=revision,
                calibration=calibration,
                overwrite=overwrite,
                stop_after=None if stop_after is None else stop_after.value,
                on_stage=lambda stage: progress.update(task, advance=1, description=stage),
            )
            progress.update(task, completed=STAGE_COUNT, description="done")
    except ConversionError as refusal:
        _refuse(str(refusal))
    if manifest is None:
        typer.echo(f"Stopped after {stop_after}; the same command without --stop-after goes on.")
        return
    size_bytes = sum(file.size_bytes for file in manifest.files.values())
    typer.echo(f"{manifest.model} in {out}: {len(manifest.files)} files, {size_bytes / 1e6:.1f} MB")
    _print_summary(out, manifest)


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="A published model folder.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Compare its answers with this checkpoint's, too.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
) -> None:
    """Check a model folder: hashes, ports, versions and, given the checkpoint, what it computes."""
    try:
        checks = check_folder(folder, checkpoint, revision)
    except ConversionError as refusal:
        _refuse(str(refusal))
    for check in checks:
        typer.echo(_line(check))
    if any(check.outcome == "failed" for check in checks):
        raise typer.Exit(FAILED_EXIT_CODE)


def _settings(
    preset: PrepSettings,
    weight_format: WeightFormatChoice | None,
    language: dict[str, Any],
    vision_format: VisionFormatChoice | None,
    vision: dict[str, Any],
    group: int | None,
    samples: int | None,
) -> PrepSettings:
    """The preset with what was given beside it. Options of another format than the preset's do not stay."""
    try:
        return PrepSettings(
            language=_changed(preset.language, "weight_format", weight_format, language),
            vision=_changed(preset.vision, "vision_format", vision_format, vision),
            dynamic_quantization_group_size=(
                preset.dynamic_quantization_group_size if group is None else group
            ),
            samples=preset.samples if samples is None else samples,
        )
    except ValidationError as invalid:
        first = invalid.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ConversionError(f"{place}: {reason}." if place else f"{reason}.") from None


def _changed(preset: Format, field: str, wanted: StrEnum | None, options: dict[str, Any]) -> Format:
    kept = {} if wanted is not None and wanted.value != getattr(preset, field) else preset.model_dump()
    return type(preset).model_validate(kept | ({field: wanted.value} if wanted else {}) | options)


def _print_summary(out: Path, manifest: FolderManifest) -> None:
    """What was verified, as a table on stderr."""
    found = Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())
    console = Console(stderr=True)
    parity = found.parity
    console.print(
        f"Beside the checkpoint in float32: logits differ by at most {parity.max_logit_difference:.1e} of "
        f"the largest, {parity.token_agreement:.1%} of {parity.tokens} tokens are the same."
    )
    if found.losses:
        table = Table(
            "part", "format", "size", "speed", "tokens the same", "answers the same", "logit KL, nats"
        )
        formats = {"vision": manifest.vision_format, "language": manifest.weight_format}
        for part, loss in found.losses.items():
            table.add_row(
                part,
                formats.get(part, ""),
                f"{loss.size_ratio:.2f} ×",
                "–" if loss.speed_ratio is None else f"{loss.speed_ratio:.2f} ×",
                f"{loss.token_agreement:.1%}",
                f"{loss.answer_agreement:.1%}",
                f"{loss.logit_kl:.2g}",
            )
        console.print(table)
    if found.calibration_skipped:
        console.print(f"{found.calibration_skipped} images to calibrate with could not be read.")
    if found.left_out:
        console.print(found.left_out)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))


def _line(check: Check) -> str:
    return f"{check.outcome:8} {check.what}: {check.detail}"


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(REFUSED_EXIT_CODE)


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, and what is finished stays for the next time."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
    app()


if __name__ == "__main__":
    main()
