"""What was verified of a model folder, as its file says it and as people read it; computes nothing.

A folder is published with `verification.json`, and the same for people in `verification.md`.
"""

from typing import Final

from pydantic import Field

from contract.base import Contract
from contract.counting import counted

NEW_TOKENS: Final = 16
"""Tokens of an answer that is compared."""
PARITY_TOLERANCE: Final = 1e-3
"""Of the largest logit or feature: what the order of summation may make of float32."""
VERIFICATION_JSON: Final = "verification.json"
VERIFICATION_MD: Final = "verification.md"


class Parity(Contract):
    """The exact export beside the checkpoint in torch, both in float32."""

    images: int
    layers: int = Field(description="of the language model that were in memory at once")
    of_layers: int
    prompt_share: float = Field(
        default=1.0,
        description="of the prompts' positions that were compared: all text, features from everywhere",
    )
    max_feature_difference: float = Field(description="of image features, over the largest feature")
    max_logit_difference: float = Field(description="over the largest logit")
    tokens: int
    token_agreement: float = Field(description="share of most probable tokens that are the same")

    @property
    def holds(self) -> bool:
        return max(self.max_feature_difference, self.max_logit_difference) <= PARITY_TOLERANCE


class Loss(Contract):
    """What a compressed part changes of the exact export's answers, both computed in float32."""

    size_ratio: float = Field(description="bytes of the weights over those of the exact export")
    speed_ratio: float | None = Field(
        description="how many times as fast on this machine, with OpenVINO's default hints"
    )
    token_agreement: float = Field(
        description="share of most probable tokens that are the same, each after "
        "the tokens of the exact answer, or of a given one where there is none"
    )
    answer_agreement: float | None = Field(
        description=f"share of answers of {NEW_TOKENS} tokens that are the same; null where memory held too "
        "few layers to generate any"
    )
    logit_kl: float = Field(description="mean divergence of the token distributions, in nats")


class Verification(Contract):
    """What was compared, and what came of it. A comparison for which memory was short is null, with why."""

    parity: Parity | None
    losses: dict[str, Loss] = Field(description="vision, language and whole, where they are not exact")
    left_out: str | None = Field(description="what was not compared, and why")
    allowed_s: float | None = Field(default=None, description="time that was to do; null is any")
    took_s: float | None = Field(default=None, description="time that comparing took")
    notes: tuple[str, ...] = Field(default=(), description="what a worker makes of the checkpoint's settings")
    calibration_images: int
    calibration_skipped: int = Field(description="of those tried, how many could not be read")


def share(found: float | None) -> str:
    """A share as people read it; a dash where there is none."""
    return "–" if found is None else f"{found:.1%}"


def shortened(parity: Parity) -> list[str]:
    """In what the comparison was less than whole."""
    said = []
    if parity.layers < parity.of_layers:
        said.append(
            f"Memory held {parity.layers} of {parity.of_layers} layers in float32, so they were computed one "
            "block after another, and the tokens compared follow those of a given answer."
        )
    if parity.prompt_share < 1:
        said.append(
            f"Of the prompt, {parity.prompt_share:.0%} was compared: all text, and features from all over "
            "the image. --verify full compares everything."
        )
    return said


def report(verification: Verification, title: str) -> str:
    """Markdown for whoever decides whether to use the folder."""
    parity = verification.parity
    lines = [f"# Verification of {title}", ""]
    if parity is not None:
        lines += [
            f"The exact export beside the checkpoint in float32, {counted(parity.images, 'image')}, all "
            f"{parity.of_layers} layers: largest difference of a logit {parity.max_logit_difference:.1e} and "
            f"of an image feature {parity.max_feature_difference:.1e} of the largest; "
            f"{parity.token_agreement:.1%} of {parity.tokens} tokens the same.",
            "",
        ]
        lines += [line for sentence in shortened(parity) for line in (sentence, "")]
    if verification.losses:
        lines += [
            f"What compression changes, on the same images, answers of {NEW_TOKENS} tokens:",
            "",
            "| part | size | speed | tokens the same | answers the same | logit KL, nats |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {part} | {loss.size_ratio:.2f} × | "
            f"{'–' if loss.speed_ratio is None else f'{loss.speed_ratio:.2f} ×'} | "
            f"{loss.token_agreement:.1%} | {share(loss.answer_agreement)} | {loss.logit_kl:.2g} |"
            for part, loss in verification.losses.items()
        ]
        lines.append("")
    if verification.calibration_images:
        lines += [
            f"Calibrated with {counted(verification.calibration_images, 'image')}; "
            f"{verification.calibration_skipped} more could not be read.",
            "",
        ]
    for sentence in filter(None, (verification.left_out, *verification.notes)):
        lines += [sentence, ""]
    return "\n".join(lines)
