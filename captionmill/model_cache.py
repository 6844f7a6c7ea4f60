"""Finds the model folder that a command names, and converts a checkpoint where needed; knows no run."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from captionmill import conversion
from captionmill.conversion import OnEvent
from captionmill.kept_models import (
    DEMO,
    KeptModel,
    ModelError,
    Recipe,
    Record,
    files_of,
    kept_as,
    kept_for,
    plain_name,
)
from contract.model_folder import CONFIG_JSON, LANGUAGE_XML, MANIFEST_JSON
from demo.samples import MODEL_FOLDER
from model_prep.command import arguments_of
from model_prep.conversations import CONVERSATIONS
from model_prep.options import ConversionOptions
from model_prep.refusal import ConversionError
from model_prep.settings import BUILTIN

HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")
"""The patterns of model_prep.source, which is not imported because its libraries are heavy."""
DEFAULTS: Final = ConversionOptions()
WANTED: Final = (
    "Which model shall answer? Name one with --model: a model folder, a checkpoint folder or a hub id. "
    "Or name a server whose workers answer, with --redis or CAPTIONMILL_REDIS_URL."
)


def find_model(model: str) -> Path:
    """The model folder of `model`: a model or checkpoint folder, a hub id, a kept model's name or `demo`.

    A checkpoint is converted first, with progress on stderr. A kept model is marked as used until this
    process ends. Raises ModelError.
    """
    found = _look_up(model)
    if isinstance(found, Path):
        return found
    kept, record = found
    make(kept, record)
    kept.hold()
    return kept.model_folder


def at_hand(model: str) -> Path:
    """The model folder of `model` without converting anything; the path `model` itself if there is none."""
    try:
        found = _look_up(model)
    except ModelError:
        return Path(model)
    if isinstance(found, Path):
        return found
    kept, _ = found
    return kept.model_folder if kept.state() == "ready" else Path(model)


def is_demo(model: str) -> bool:
    """Whether `model` names the shipped model, and not the folder `demo` of a clone."""
    path = Path(model)
    return model == DEMO and not (path / LANGUAGE_XML).exists() and not (path / CONFIG_JSON).exists()


def on_a_server(model: str) -> str:
    """The name of `model` for a server's workers: the shipped model's folder for `demo`, else `model`."""
    return str(MODEL_FOLDER) if is_demo(model) else model


def check_model(model: str | None) -> None:
    """Raise ModelError early for a model that find_model cannot find or convert."""
    if model is None:
        raise ModelError(WANTED)
    found = _look_up(model)
    if isinstance(found, Path):
        return
    kept, record = found
    if kept.state() == "ready":
        return
    with kept.alone(lambda: _say_waiting(kept)):
        if kept.state() != "ready":
            conversion.check(kept, record)


def make(kept: KeptModel, record: Record, on_event: OnEvent | None = None) -> bool:
    """Convert a kept model unless it is ready; return whether this call did. Raises ModelError.

    Waits for another command that converts it.
    """
    if kept.state() == "ready":
        return False
    with kept.alone(lambda: _say_waiting(kept)):
        if kept.state() == "ready":
            return False
        conversion.convert(kept, record, on_event)
        return True


def wanted(model: str, options: ConversionOptions) -> tuple[KeptModel, Record]:
    """The kept model of a checkpoint folder or hub id, and its record. Raises ModelError."""
    path = Path(model)
    if path.exists():
        _require_checkpoint(path)
        if options.revision is not None:
            raise ModelError(f"{model} is a folder here, and a folder has no revision {options.revision!r}.")
        resolved = path.resolve()
        source, files = str(resolved), files_of(path)
        own = plain_name(resolved.name)
        name = options.name or (None if own == resolved.name else own)
    elif HUB_ID.fullmatch(model):
        source, files, name = model, None, options.name
    else:
        raise ModelError(
            f"There is no folder {model}, it is no name of a kept model (`captionmill models` lists them), "
            "and a hub id has the form owner/name."
        )
    calibration = options.calibration
    if calibration and calibration != BUILTIN:
        calibration = str(Path(calibration).absolute())
    template, template_text = _template(options.chat_template)
    tower, tower_files = _tower(options.vision_tower)
    try:
        recipe = Recipe(
            source=source,
            revision=options.revision,
            files=files,
            settings=options.settings(),
            name=name,
            calibration=calibration,
            chat_template=template_text,
            vision_tower=tower,
            vision_tower_files=tower_files,
            allow_untested=options.allow_untested,
        )
    except ConversionError as refusal:
        raise ModelError(str(refusal)) from None
    # as_json does not change the model.
    asked = replace(
        options,
        name=name,
        calibration=calibration,
        chat_template=template,
        vision_tower=tower,
        as_json=False,
    )
    return kept_for(recipe), Record(recipe=recipe, options=tuple(arguments_of(asked)))


def _template(given: str | None) -> tuple[str | None, str | None]:
    """A chat template as an option of the conversion, and for the recipe: the text of a file."""
    if given is None or given in CONVERSATIONS or not (path := Path(given)).is_file():
        return given, given
    try:
        return str(path.absolute()), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The chat template {given} cannot be read: {error}.") from None


def _tower(given: str | None) -> tuple[str | None, dict[str, tuple[int, int]] | None]:
    """A vision tower as an option of the conversion, and for the recipe: the files of a folder."""
    if given is None or not (path := Path(given)).is_dir():
        return given, None
    return str(path.resolve()), files_of(path)


def _look_up(model: str) -> Path | tuple[KeptModel, Record]:
    path = Path(model)
    if (path / LANGUAGE_XML).is_file():
        return path.absolute()
    if is_demo(model):
        return MODEL_FOLDER
    if not path.exists() and (kept := kept_as(model)) is not None:
        return kept, _record(kept)
    return wanted(model, DEFAULTS)


def _record(kept: KeptModel) -> Record:
    """The record of a kept model. Raises ModelError if it is not ready and cannot be made ready."""
    record = kept.record()
    if record is None:
        raise ModelError(
            f"{kept.name} is damaged, and what it was made from is not known: captionmill models remove "
            f"{kept.name}"
        )
    source = Path(record.recipe.source)
    if kept.state() != "ready" and record.recipe.is_folder:
        now = files_of(source) if source.is_dir() else None
        if now != record.recipe.files:
            raise ModelError(
                f"{kept.name} is {kept.state()}, and {source}, which it is made from, has changed since: "
                f"convert it again with --model {source}"
            )
    return record


def _require_checkpoint(path: Path) -> None:
    if (path / MANIFEST_JSON).is_file():
        raise ModelError(f"{path} is a model folder that lacks its {LANGUAGE_XML}: convert it again.")
    if not (path / CONFIG_JSON).is_file():
        raise ModelError(
            f"{path} is no model folder, as it has no {LANGUAGE_XML}, and no checkpoint folder, as it has no "
            f"{CONFIG_JSON}."
        )
    if not any(found for pattern in WEIGHTS for found in path.glob(pattern)):
        raise ModelError(f"{path} has no weights: neither {' nor '.join(WEIGHTS)}.")


def _say_waiting(kept: KeptModel) -> None:
    Console(stderr=True, markup=False, soft_wrap=True).print(
        f"Another command is converting {kept.name}; this one waits for it."
    )
