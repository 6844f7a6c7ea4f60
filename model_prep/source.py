"""Finds a checkpoint on this machine or downloads it from the hub; knows nothing about its content."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm.auto import tqdm

from model_prep.refusal import ConversionError

DESCRIPTIONS: Final = ("*.json", "*.jinja", "*.model", "*.txt")
"""Patterns of config, processor and tokenizer files."""
WEIGHTS: Final = ("*.safetensors",)
PICKLES: Final = ("pytorch_model*.bin",)
"""Pattern of weights in checkpoints without safetensors; only tensors are read from them."""


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder and its public name."""

    folder: Path
    name: str
    """The hub id, or the name of a local folder without its private path."""
    revision: str | None
    """The commit on the hub; None for a local folder."""


def find_source(source: str, revision: str | None) -> Source:
    """`source` as a local folder, or else as a hub id, downloaded without its weights.

    Cached files are not downloaded again. HF_HUB_OFFLINE, HF_TOKEN and HF_HOME are honoured. Raises
    ConversionError.
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ConversionError(f"{source} is a folder here, and a folder has no revision {revision!r}.")
        return Source(path, path.resolve().name, None)
    folder = _download(source, revision, DESCRIPTIONS)
    # The folder of a snapshot is named by its commit.
    return Source(folder, source, folder.name)


def weight_files(folder: Path) -> list[Path]:
    """A checkpoint's weight files: safetensors, or else pickles."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob(*PICKLES))


def fetch_weights(source: Source, on_bytes: Callable[[int, int], None] = lambda _done, _total: None) -> None:
    """Download the weights of a hub checkpoint, safetensors or else pickles; a local folder is left alone.

    `on_bytes` gets the bytes downloaded so far and those of all files. Raises ConversionError.
    """
    if source.revision is None:
        return
    folder = _download(source.name, source.revision, WEIGHTS, on_bytes)
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        _download(source.name, source.revision, PICKLES, on_bytes)


def _download(
    hub_id: str,
    revision: str | None,
    patterns: tuple[str, ...],
    on_bytes: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    class Told(tqdm):  # type: ignore[misc]
        """Reports bytes instead of drawing a bar."""

        def display(self, *_: Any, **__: Any) -> None:
            if self.unit == "B" and self.total:
                on_bytes(int(self.n), int(self.total))

    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns), tqdm_class=Told)
        )
    except HFValidationError:
        raise ConversionError(f"{hub_id} is not a checkpoint: no folder here, and no hub id.") from None
    except LocalEntryNotFoundError as error:
        raise ConversionError(
            f"{hub_id} is not a checkpoint: no folder here, and the hub cannot be asked ({_last(error)})."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ConversionError(f"{hub_id} is not a checkpoint: {_first(error)}") from error


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last(error: Exception) -> str:
    return type(error.__cause__ or error).__name__
