"""How closely a job's images are looked at; knows no model."""

from dataclasses import dataclass

from contract.job import Detail


@dataclass(frozen=True)
class Look:
    """How an image is turned into image tokens."""

    detail: Detail = "high"
    visual_tokens: int | None = None
    """most image tokens that a prompt keeps of the image; None keeps all"""
    alone: bool = True
    """whether it is the question's only image; some models tile one of several differently"""
