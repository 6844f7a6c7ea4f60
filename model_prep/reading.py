"""What a checkpoint's files do not say, given by the user; reads nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Reading:
    """Choices of the user for reading a checkpoint."""

    chat_template: str | None = None
    """A file, or the name of a conversation in model_prep.conversations."""
    vision_tower: str | None = None
    """Folder or hub id of the vision tower, for LLaVA's own layout."""
    allow_untested: bool = False
    """Also accept language models that no test covers; verification decides."""

    @property
    def recorded(self) -> dict[str, object]:
        """The fields for a folder's manifest, without private paths."""
        return {
            "chat_template": self.chat_template and Path(self.chat_template).name,
            "vision_tower": _name(self.vision_tower),
            "allow_untested": self.allow_untested,
        }


AS_IT_SAYS: Final = Reading()


def _name(source: str | None) -> str | None:
    """A hub id, or a folder's name without its path."""
    return Path(source).resolve().name if source is not None and Path(source).exists() else source
