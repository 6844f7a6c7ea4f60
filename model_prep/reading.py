"""How a checkpoint is to be read where it does not say itself; it is asked for at the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Reading:
    """What is given beside the checkpoint."""

    chat_template: str | None = None
    """a file, or the name of a conversation in model_prep.conversations"""
    vision_tower: str | None = None
    """folder or hub id of the vision tower, for the layout of LLaVA's own repositories"""
    allow_untested: bool = False
    """also a language model that no test has converted; verification decides"""

    @property
    def recorded(self) -> dict[str, object]:
        """As a folder's manifest has it: where files lie on this machine is nobody else's concern."""
        return {
            "chat_template": self.chat_template and Path(self.chat_template).name,
            "vision_tower": _name(self.vision_tower),
            "allow_untested": self.allow_untested,
        }


AS_IT_SAYS: Final = Reading()


def _name(source: str | None) -> str | None:
    """A hub id, or a folder's own name."""
    return Path(source).resolve().name if source is not None and Path(source).exists() else source
