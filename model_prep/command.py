"""The command line of model preparation; knows not how a model is converted.

Heavy imports happen inside the commands, so that help and refusals are fast and work without torch.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from contract.counting import counted
from contract.installing import install_line
from contract.model_folder import FolderManifest
from contract.option_groups import with_groups
from model_prep.options import ConversionOptions
from model_prep.progress import Events, own_stdout, shown_progress
from model_prep.refusal import ConversionError
from model_prep.verified import VERIFICATION_JSON, Verification, share, shortened

if TYPE_CHECKING:
    from model_prep.check import Check

FAILED_EXIT_CODE: Final = 1
REFUSED_EXIT_CODE: Final = 2
INTERRUPTED_EXIT_CODE: Final = 128 + signal.SIGINT
TERMINATED_EXIT_CODE: Final = 128 + signal.SIGTERM
PROGRAM: Final = "model_prep"
NEEDED: Final = ("torch", "nncf", "safetensors", "psutil")
"""Packages of the extra `prep`."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prepare model folders for Captionmill workers.",
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.command("convert")
@with_groups
def convert_command(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    *,
    options: ConversionOptions,
) -> None:
    """Convert a Hugging Face checkpoint of the LLaVA family into a model folder."""
    convert_into(out, model, options)


def convert_into(out: Path, model: str, options: ConversionOptions, program: str = PROGRAM) -> None:
    """Convert, with progress on the terminal or as events. Ends the command if the conversion is refused.

    `program` is the name at the beginning of a refusal.
    """
    events = Events(own_stdout()) if options.as_json else None
    with _sentences(events, program):
        settings = options.settings()
        require_prep()
        # Importing torch and OpenVINO takes seconds.
        from model_prep.convert import convert

        asked: dict[str, Any] = {
            "name": options.name,
            "revision": options.revision,
            "calibration": options.calibration,
            "overwrite": options.overwrite,
            "stop_after": options.stop_after,
            "reading": options.reading(),
        }
        if events is not None:
            asked |= {
                "on_stage": events.stage,
                "on_bytes": events.downloaded,
                "on_compared": events.compared,
            }
            manifest = convert(model, out, settings, **asked)
        else:
            quiet_libraries()
            with shown_progress() as progress:
                asked |= {
                    "on_stage": progress.stage,
                    "on_bytes": progress.downloaded,
                    "on_compared": progress.compared,
                }
                manifest = convert(model, out, settings, **asked)
                progress.finish()
    if events is not None:
        events.tell("converted", model=None if manifest is None else manifest.model)
    elif manifest is None:
        typer.echo(f"Stopped after {options.stop_after}; the same command without --stop-after goes on.")
    else:
        size = f"{manifest.size_bytes / 1e6:.1f} MB"
        typer.echo(f"{manifest.model} in {out}: {counted(len(manifest.files), 'file')}, {size}")
        _print_summary(out, manifest)


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="A published model folder.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Also compare its answers with this checkpoint's.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="The checkpoint's vision tower, as for `convert`.")
    ] = None,
) -> None:
    """Check a model folder: hashes, ports, versions, and its answers if the checkpoint is given."""
    verify_folder(folder, checkpoint, revision, vision_tower)


def verify_folder(
    folder: Path,
    checkpoint: str | None,
    revision: str | None,
    vision_tower: str | None,
    program: str = PROGRAM,
) -> None:
    """Check a folder and print each check. Ends the command if it is refused or a check fails."""
    with _sentences(None, program):
        if checkpoint is not None:
            require_prep()
            quiet_libraries()
        from model_prep.check import check_folder

        checks = check_folder(folder, checkpoint, revision, vision_tower)
    for check in checks:
        typer.echo(_line(check))
    if any(check.outcome == "failed" for check in checks):
        raise typer.Exit(FAILED_EXIT_CODE)


def arguments_of(options: ConversionOptions) -> list[str]:
    """The options as arguments for the command `convert`."""
    command = typer.main.get_command(app).commands["convert"]  # type: ignore[attr-defined]
    found: list[str] = []
    for parameter in command.params:
        value = getattr(options, parameter.name, None)
        if value is None or value == getattr(ConversionOptions, parameter.name):
            continue
        if isinstance(value, bool):
            found.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            found += [parameter.opts[0], str(value)]
    return found


def require_prep() -> None:
    """Raise ConversionError unless the packages of the extra `prep` are installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConversionError(
            f"Converting a model needs {' and '.join(missing)}, which this environment does not have: "
            f"{install_line('prep')} (docs/model_prep.md says how to get torch without CUDA)."
        )


def quiet_libraries() -> None:
    """Turn off transformers' progress bars and notes."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def _sentences(events: Events | None, program: str) -> Iterator[None]:
    """Turn errors that a person can act on into one sentence and an exit code; bugs stay exceptions."""
    try:
        yield
    except ConversionError as refusal:
        _end(events, str(refusal), REFUSED_EXIT_CODE, program)
    except OSError as error:
        sentence = f"{error.filename or 'A file'} cannot be used: {error.strerror or error}."
        _end(events, sentence, REFUSED_EXIT_CODE, program)
    except KeyboardInterrupt:
        stopped = "Stopped; the same command goes on from what is finished."
        _end(events, stopped, INTERRUPTED_EXIT_CODE, program)


def _end(events: Events | None, sentence: str, code: int, program: str) -> NoReturn:
    if events is not None:
        events.tell("refused", sentence=sentence)
    typer.echo(f"{program}: {sentence}", err=True)
    raise typer.Exit(code)


def _print_summary(out: Path, manifest: FolderManifest) -> None:
    """Print on stderr what was verified."""
    found = Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())
    console = Console(stderr=True)
    parity = found.parity
    if parity is not None:
        console.print(
            f"Beside the checkpoint in float32, {counted(parity.images, 'image')}: logits differ by at most "
            f"{parity.max_logit_difference:.1e} of the largest, {parity.token_agreement:.1%} of "
            f"{parity.tokens} tokens are the same."
        )
        for sentence in shortened(parity):
            console.print(sentence)
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
                share(loss.answer_agreement),
                f"{loss.logit_kl:.2g}",
            )
        console.print(table)
    for choice in found.choices.values():
        console.print(choice.why)
    if found.calibration_skipped:
        skipped = counted(found.calibration_skipped, "image")
        console.print(f"{skipped} to calibrate with could not be read.")
    for sentence in filter(None, (found.left_out, *found.notes)):
        console.print(sentence)


def _line(check: "Check") -> str:
    return f"{check.outcome:8} {check.what}: {check.detail}"


def main() -> None:
    """Run the command line. SIGTERM ends it as Ctrl-C does; finished parts stay for the next call."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
    app()
