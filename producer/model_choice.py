"""Chooses the model id of a run's jobs, from the command and the live workers; asks no worker."""

import os
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from contract.model_folder import CONFIG_JSON, MANIFEST_JSON, FolderManifest
from producer.errors import ProducerError
from producer.sources import shown


class LiveModelError(ProducerError, ValueError):
    """No live worker has the model of the run; the message says which models they have."""


def model_id(model: str) -> str:
    """The id of the model folder `model`, or `model` itself if it is no folder. Raises LiveModelError.

    Like a worker, it takes the id of the folder's manifest, or else the folder's name.
    """
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith(("/", "./", "../", "~")):
            raise LiveModelError(
                f"There is no model folder {shown(model)}; --model names a folder or a model id."
            )
        return model
    manifest = folder / MANIFEST_JSON
    if manifest.exists():
        try:
            return FolderManifest.model_validate_json(manifest.read_bytes()).model
        except ValidationError:
            raise LiveModelError(f"{shown(manifest)} is no manifest of a model folder.") from None
    if (folder / CONFIG_JSON).exists():
        return folder.resolve().name
    raise LiveModelError(
        f"{shown(model)} is no model folder: it holds neither {MANIFEST_JSON} nor {CONFIG_JSON}."
    )


def live_model(model: str, live: Collection[str]) -> str:
    """The full id that the live workers have for `model`; `model` itself if no worker is alive.

    Workers append their settings to a folder's id, as +SETTING=…, which `model` may leave out. Raises
    LiveModelError.
    """
    if not live or model in live:
        return model
    fitting = sorted(one for one in live if one.partition("+")[0] == model)
    if len(fitting) > 1:
        raise LiveModelError(
            f"Live workers compute the model {model} with different settings; name one of these with "
            f"--model: {', '.join(fitting)}."
        )
    if not fitting:
        raise LiveModelError(
            f"No live worker has the model {model}: they have {', '.join(sorted(live))}. Name one of these "
            "with --model, or start a worker with that model."
        )
    return fitting[0]


def model_to_ask(model: str | None, live: Collection[str], last: str | None) -> str | None:
    """The id for jobs. `model` is the command's, None if it names none; `last` is that of earlier jobs.

    None if no id is known: any worker may answer. Raises LiveModelError.
    """
    if model is not None:
        return live_model(model, live)
    if len(live) > 1:
        raise LiveModelError(
            f"The live workers hold different models ({', '.join(sorted(live))}); name one with --model."
        )
    # Without a worker, the last id: a worker with another model refuses such jobs.
    return next(iter(live), last)


def folder_of(model: str | None) -> str | None:
    """The absolute path of `model` if it is a folder, to start a worker with; else None."""
    return os.path.abspath(model) if model is not None and os.path.isdir(model) else None
