"""Finds the model folder that a command names: one that is there, or one converted and kept."""

from pathlib import Path

from captionmill.local_site import SiteError
from contract.model_folder import LANGUAGE_XML


def find_model(model: str) -> Path:
    """The model folder of `model`. Raises SiteError."""
    folder = Path(model)
    if (folder / LANGUAGE_XML).is_file():
        return folder.absolute()
    raise SiteError(f"{model} is no model folder.")
