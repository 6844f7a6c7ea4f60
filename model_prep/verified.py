"""What was verified of a model folder, as its file says it and as people read it; computes nothing.

A folder is published with `verification.json`, and the same for people in `verification.md`.
"""

from typing import Final

from pydantic import Field

from contract.base import Contract

NEW_TOKENS: Final = 16
"""Tokens of an answer that is compared."""
PARITY_TOLERANCE: Final = 1e-3
"""Of the largest logit or feature: what the order of summation may make of float32."""
VERIFICATION_JSON: Final = "verification.json"
VERIFICATION_MD: Final = "verification.md"


class Parity(Contract):
    """The exact export beside the checkpoint in torch, both in float32."""

    images: int
    layers: int = Field(description="of the language model that were compared, from the first one")
    of_layers: int
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
        "the tokens of the exact answer"
    )
    answer_agreement: float = Field(description=f"share of answers of {NEW_TOKENS} tokens that are the same")
    logit_kl: float = Field(description="mean divergence of the token distributions, in nats")


class Verification(Contract):
    """What was compared, and what came of it. A comparison for which memory was short is null, with why."""

    parity: Parity | None
    losses: dict[str, Loss] = Field(description="vision, language and whole, where they are not exact")
    left_out: str | None = Field(description="what was not compared, and why")
    notes: tuple[str, ...] = Field(default=(), description="what a worker makes of the checkpoint's settings")
    calibration_images: int
    calibration_skipped: int = Field(description="of those tried, how many could not be read")


def report(verification: Verification, title: str) -> str:
    """Markdown for whoever decides whether to use the folder."""
    parity = verification.parity
    lines = [f"# Verification of {title}", ""]
    if parity is not None:
        lines += [
            f"The exact export beside the checkpoint in float32, {parity.images} images, {parity.layers} of "
            f"{parity.of_layers} layers: largest difference of a logit {parity.max_logit_difference:.1e} and "
            f"of an image feature {parity.max_feature_difference:.1e} of the largest; "
            f"{parity.token_agreement:.1%} of {parity.tokens} tokens the same.",
            "",
        ]
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
            f"{loss.token_agreement:.1%} | {loss.answer_agreement:.1%} | {loss.logit_kl:.2g} |"
            for part, loss in verification.losses.items()
        ]
        lines.append("")
    if verification.calibration_images:
        lines += [
            f"Calibrated with {verification.calibration_images} images; {verification.calibration_skipped} "
            "more could not be read.",
            "",
        ]
    for sentence in filter(None, (verification.left_out, *verification.notes)):
        lines += [sentence, ""]
    return "\n".join(lines)
