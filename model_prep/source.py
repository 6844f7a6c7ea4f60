"""Finds a checkpoint on this machine or on the hub and brings it here; knows nothing of what is in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from model_prep.refusal import ConversionError

FILES: Final = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
"""What a conversion may read; weights in other formats are pickles."""


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and what it is called by others."""

    folder: Path
    name: str
    """the hub id, or a local folder's own name: where it lies is nobody else's concern"""
    revision: str | None
    """the commit on the hub"""


def find_source(source: str, revision: str | None) -> Source:
    """`source` as a local folder, else as a hub id, whose files are downloaded unless they are cached.

    HF_HUB_OFFLINE, HF_TOKEN and HF_HOME are honoured. Raises ConversionError.
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ConversionError(f"{source} is a folder here, and a folder has no revision {revision!r}.")
        return Source(path, path.resolve().name, None)
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError:
        raise ConversionError(f"{source} is not a checkpoint: no folder here, and no hub id.") from None
    except LocalEntryNotFoundError as error:
        raise ConversionError(
            f"{source} is not a checkpoint: no folder here, and the hub cannot be asked ({_last(error)})."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ConversionError(f"{source} is not a checkpoint: {_first(error)}") from error
    # A snapshot lies in a folder named by its commit.
    return Source(folder, source, folder.name)


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last(error: Exception) -> str:
    return type(error.__cause__ or error).__name__
