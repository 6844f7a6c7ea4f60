"""The commands `convert` and `models`; knows not how a model is converted."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from captionmill import conversion
from captionmill.app import MODELS, app, make_app, make_console
from captionmill.exits import NAME, refuse, sentences
from captionmill.kept_models import DEMO, KeptModel, ModelError, ShippedModel, kept_models
from captionmill.model_cache import is_demo, make, wanted
from contract.option_groups import with_groups
from model_prep.command import TERMINATED_EXIT_CODE, convert_into, verify_folder
from model_prep.options import ConversionOptions
from model_prep.verified import share
from producer.run_console import event

models = make_app(help="List, show, check and remove kept models.")
app.add_typer(models, name="models", rich_help_panel=MODELS)

DATE_WIDTH: Final = len("2026-01-01 00:00")
LABEL_WIDTH: Final = 17
LABELS: Final = {"model": "model id", "size_bytes": "size", "token_agreement": "verified"}
"""Field → its label, where that is not the field's name."""

Name = Annotated[
    str, typer.Argument(help="Name of a kept model, or its beginning; demo is the shipped model.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As lines of JSON.")]


@app.command(rich_help_panel=MODELS)
@with_groups
def convert(
    model: Annotated[str, typer.Argument(help="Folder or hub id of a checkpoint.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Model folder to write.", show_default="kept; see `captionmill models`"),
    ] = None,
    *,
    options: ConversionOptions,
) -> None:
    """Convert a Hugging Face checkpoint of the LLaVA family into a model folder.

    Without --out it is kept in the user's cache folder. --model finds it there: by the checkpoint if no other
    option was given, else by its name in `captionmill models`.
    """
    if out is not None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED_EXIT_CODE))
        convert_into(out, model, options, NAME)
        return
    with sentences():
        for name in ("stop_after", "overwrite"):
            if getattr(options, name):
                refuse(f"--{name.replace('_', '-')} needs a model folder of your own: name it with --out.")
        kept, record = wanted(model, options)
        tell = (lambda told: event(told.pop("event"), told)) if options.as_json else None
        if not make(kept, record, tell) and not options.as_json:
            print(conversion.made(kept))
        if options.as_json:
            event("kept", _row(kept))


@models.callback(invoke_without_command=True)
def models_command(context: typer.Context, as_json: AsJson = False) -> None:
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the kept models."""
    _list(as_json=as_json)


def _list(*, as_json: bool) -> None:
    with sentences():
        found = kept_models()
        if as_json:
            for kept in found:
                event("model", _row(kept))
            return
        if not found:
            print("No model is kept. A checkpoint folder or a hub id given as --model is converted and kept.")
            return
        width = max(len(kept.name) for kept in found)
        name = Column("name", min_width=width)  # people copy it
        table = Table(name, "formats", "size", "tokens kept", Column("last used", no_wrap=True), "state")
        for kept in found:
            row = _row(kept)
            table.add_row(
                kept.name,
                conversion.formats(kept),
                _size(row["size_bytes"]),
                "" if row["token_agreement"] is None else f"{row['token_agreement']:.1%}",
                (row["last_used"] or "never")[:DATE_WIDTH],
                row["state"],
            )
        make_console(as_json=False).print(table)


@models.command("show")
def show(name: Name, as_json: AsJson = False) -> None:
    """Show what a kept model is, what it was made from and how it was verified."""
    with sentences():
        kept = _named(name)
        row = _row(kept) | {"log": str(kept.log) if kept.log.exists() else None}
        if as_json:
            event("model", row)
            return
        row["size_bytes"] = _size(row["size_bytes"])
        row["token_agreement"] = conversion.loss(kept)
        console = make_console(as_json=False)
        for field, value in row.items():
            if value is not None:
                console.print(f"{LABELS.get(field, field.replace('_', ' ')):{LABEL_WIDTH}}{value}")
        found = kept.verification()
        if found is None or not found.losses:
            return
        losses = Table("part", "size", "speed", "tokens the same", "answers the same", "logit KL, nats")
        for part, one in found.losses.items():
            losses.add_row(
                part,
                f"{one.size_ratio:.2f} ×",
                "–" if one.speed_ratio is None else f"{one.speed_ratio:.2f} ×",
                f"{one.token_agreement:.1%}",
                share(one.answer_agreement),
                f"{one.logit_kl:.2g}",
            )
        console.print(losses)


@models.command("verify")
def verify(
    name: Annotated[str, typer.Argument(help="A kept model's name, demo, or a model folder.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Also compare its answers with this checkpoint's.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="The checkpoint's vision tower, as for `convert`.")
    ] = None,
) -> None:
    """Check a model folder: hashes, ports, versions, and its answers if the checkpoint is given."""
    with sentences():
        is_folder = Path(name).is_dir() and not is_demo(name)
        folder = Path(name) if is_folder else _named(name).model_folder
    verify_folder(folder, checkpoint, revision, vision_tower, NAME)


@models.command("remove")
def remove(
    names: Annotated[list[str], typer.Argument(help="Names of kept models, or their beginnings.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove kept models, unfinished ones too. They can be converted again."""
    with sentences():
        chosen = {kept.name: kept for kept in map(_named, names)}
        size = _size(sum(kept.size_bytes() for kept in chosen.values()))
        if not yes:
            if not sys.stdin.isatty():
                refuse(f"To remove {', '.join(chosen)} without confirmation, add --yes.")
            if not typer.confirm(f"Remove {', '.join(chosen)} ({size})?", err=True):
                refuse("Nothing is removed.")
        for kept in chosen.values():
            kept.remove()
            if as_json:
                event("removed", {"name": kept.name})
        if not as_json:
            print(f"Removed {', '.join(chosen)}: {size}.")


def _named(name: str) -> KeptModel:
    """The kept model with this name, or the only one whose name begins with it. Raises ModelError."""
    if name == DEMO:
        return ShippedModel()
    every = kept_models()
    found = [kept for kept in every if kept.name == name] or [
        kept for kept in every if name and kept.name.startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(f"{name} is the beginning of several kept models: {_names(found)}.")
    kept_are = f"kept are {_names(every)}" if every else "none is kept"
    raise ModelError(f"There is no kept model {name}; {kept_are}.")


def _names(found: Sequence[KeptModel]) -> str:
    return ", ".join(kept.name for kept in found)


def _row(kept: KeptModel) -> dict[str, Any]:
    """All facts about a kept model, as JSON-compatible data."""
    manifest, record, verified = kept.manifest(), kept.record(), kept.verification()
    used = kept.last_used()
    compared = verified is not None and verified.left_out is None
    losses = [] if verified is None else list(verified.losses.values())
    return {
        "name": kept.name,
        "state": kept.state(),
        "source": None if record is None else record.recipe.source,
        "revision": None if record is None else record.recipe.revision,
        "commit": None if manifest is None else manifest.revision,
        "model": None if manifest is None else manifest.model,
        "language_format": None if manifest is None else manifest.weight_format,
        "vision_format": None if manifest is None else manifest.vision_format,
        "token_agreement": min((one.token_agreement for one in losses), default=1.0 if compared else None),
        "size_bytes": kept.size_bytes(),
        "path": str(kept.model_folder),
        "last_used": None if used is None else used.isoformat(sep=" ", timespec="seconds"),
    }


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"
