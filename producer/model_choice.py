"""The model id that a run's jobs ask for, from what the command names and what live workers have."""

import os
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from contract.model_folder import CONFIG_JSON, MANIFEST_JSON, FolderManifest
from producer.errors import ProducerError
from producer.sources import shown


class LiveModelError(ProducerError, ValueError):
    """No live worker has the model that is asked for; the message says which they have."""


def model_id(model: str) -> str:
    """The id of the model folder `model`, or `model` itself where it is none. Raises LiveModelError.

    As a worker names it: by the folder's manifest, or by the folder where it has none.
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
    """The id that jobs for `model` carry: that of the live workers who have it, or itself without a worker.

    What workers append to a folder's id, +SETTING=…, need not be named. Raises LiveModelError.
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
    """The id that jobs ask for where `model` is wanted; `last` is that of the run's earlier jobs.

    None where nothing is wanted and known: any worker may answer. Raises LiveModelError.
    """
    if model is not None:
        return live_model(model, live)
    if len(live) > 1:
        raise LiveModelError(
            f"The live workers hold different models ({', '.join(sorted(live))}); name one with --model."
        )
    # Without a worker, as last time: one with another model will say so.
    return next(iter(live), last)


def folder_of(model: str | None) -> str | None:
    """`model` as an absolute path if it is a folder, for a worker that is to be started with it."""
    return os.path.abspath(model) if model is not None and os.path.isdir(model) else None
