"""Finds a checkpoint on this machine or on the hub and brings it here; knows nothing of what is in it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm.auto import tqdm

from model_prep.refusal import ConversionError

DESCRIPTIONS: Final = ("*.json", "*.jinja", "*.model", "*.txt")
"""Config, processor and tokenizer."""
WEIGHTS: Final = ("*.safetensors",)
PICKLES: Final = ("pytorch_model*.bin",)
"""Weights of checkpoints that have none in safetensors; nothing but tensors is read from them."""


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, and what it is called by others."""

    folder: Path
    name: str
    """the hub id, or a local folder's own name: where it lies is nobody else's concern"""
    revision: str | None
    """the commit on the hub"""


def find_source(source: str, revision: str | None) -> Source:
    """`source` as a local folder, else as a hub id, of which all but the weights is downloaded.

    What is cached is not downloaded again. HF_HUB_OFFLINE, HF_TOKEN and HF_HOME are honoured.
    Raises ConversionError.
    """
    path = Path(source)
    if path.exists():
        if revision is not None:
            raise ConversionError(f"{source} is a folder here, and a folder has no revision {revision!r}.")
        return Source(path, path.resolve().name, None)
    folder = _download(source, revision, DESCRIPTIONS)
    # A snapshot lies in a folder named by its commit.
    return Source(folder, source, folder.name)


def weight_files(folder: Path) -> list[Path]:
    """Those that hold a checkpoint's weights: in safetensors, else pickled."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob(*PICKLES))


def fetch_weights(source: Source, on_bytes: Callable[[int, int], None] = lambda _done, _total: None) -> None:
    """Download the weights of a checkpoint on the hub beside what is there of it: safetensors, else pickles.

    A folder on this machine is left as it is.

    `on_bytes` is called with the bytes that are here and those of all files. Raises ConversionError.
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
        """Tells its bytes instead of drawing a bar."""

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
