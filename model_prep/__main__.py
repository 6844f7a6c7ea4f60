"""The command line of model preparation; it parses and prints, and knows not how a model is converted."""

import re
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from contract.model_folder import FolderManifest
from model_prep.convert import STAGE_COUNT, convert
from model_prep.refusal import ConversionError

REFUSED_EXIT_CODE = 2
TERMINATED_EXIT_CODE = 128 + signal.SIGTERM
NAME_PATTERN = r"[A-Za-z0-9._-]+"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare model folders for Captionmill workers.",
)


class WeightFormatChoice(StrEnum):
    """contract.model_folder.WeightFormat, in the form that the command line offers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@app.callback()
def commands() -> None:
    """Keeps `convert` a command of its own beside those to come."""


@app.command("convert")
def convert_command(
    checkpoint: Annotated[str, typer.Argument(help="Folder or hub id of a LLaVA-NeXT checkpoint.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    weight_format: Annotated[
        WeightFormatChoice, typer.Option(help="How weights are stored.")
    ] = WeightFormatChoice.FP16,
    name: Annotated[
        str | None, typer.Option(help="Name in the model id; CHECKPOINT's own if not given.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in the model folder.")
    ] = False,
) -> None:
    """Convert a Hugging Face LLaVA-NeXT checkpoint into a model folder."""
    chosen = name if name is not None else Path(checkpoint).resolve().name
    if not re.fullmatch(NAME_PATTERN, chosen):
        _refuse(f"The name {chosen!r} is not of letters, digits and ._- alone; --name sets another.")
    try:
        manifest = _convert_with_progress(checkpoint, out, weight_format, chosen, overwrite=overwrite)
    except ConversionError as refusal:
        _refuse(str(refusal))
    size_bytes = sum(file.size_bytes for file in manifest.files.values())
    typer.echo(f"{manifest.model} in {out}: {len(manifest.files)} files, {size_bytes / 1e6:.1f} MB")


def _convert_with_progress(
    checkpoint: str, out: Path, weight_format: WeightFormatChoice, name: str, *, overwrite: bool
) -> FolderManifest:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=STAGE_COUNT, completed=-1)
        manifest = convert(
            checkpoint,
            out,
            weight_format=weight_format.value,
            name=name,
            overwrite=overwrite,
            on_stage=lambda stage: progress.update(task, advance=1, description=stage),
        )
        progress.update(task, advance=1, description="done")
    return manifest


def _refuse(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(REFUSED_EXIT_CODE)


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does, through the clean-up of a half-written folder."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
    app()


if __name__ == "__main__":
    main()
