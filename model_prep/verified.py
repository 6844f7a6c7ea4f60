"""The results of a verification: verification.json, and verification.md for people; computes nothing."""

from typing import Final, Literal

from pydantic import Field

from contract.base import Contract
from contract.counting import counted

NEW_TOKENS: Final = 16
"""Tokens of a compared answer."""
PARITY_TOLERANCE: Final = 1e-3
"""Allowed difference over the largest logit or feature: float32 sums depend on their order."""
VERIFICATION_JSON: Final = "verification.json"
VERIFICATION_MD: Final = "verification.md"


class Parity(Contract):
    """The exact export compared with the checkpoint in torch, both in float32."""

    images: int
    layers: int = Field(description="layers of the language model in memory at once")
    of_layers: int
    prompt_share: float = Field(
        default=1.0,
        description="share of the prompts' positions that was compared: all text, a choice of features",
    )
    max_feature_difference: float = Field(
        description="largest difference of image features, over the largest feature"
    )
    max_logit_difference: float = Field(description="over the largest logit")
    tokens: int
    token_agreement: float = Field(description="share of equal most probable tokens")

    @property
    def holds(self) -> bool:
        return max(self.max_feature_difference, self.max_logit_difference) <= PARITY_TOLERANCE


class Loss(Contract):
    """A compressed part compared with the exact export, both computed in float32."""

    size_ratio: float = Field(description="bytes of the weights over the exact export's")
    speed_ratio: float | None = Field(
        description="speed over the exact export's on this machine, with OpenVINO's default hints"
    )
    token_agreement: float = Field(
        description="share of equal most probable tokens, each after the tokens of the exact answer, or of "
        "a given answer if none was generated"
    )
    answer_agreement: float | None = Field(
        description=f"share of equal answers of {NEW_TOKENS} tokens; null if memory held too few layers to "
        "generate answers"
    )
    logit_kl: float = Field(description="mean KL divergence of the token distributions, in nats")


class Bounds(Contract):
    """What a part may lose in 8 bits."""

    token_agreement: float = Field(description="least share of tokens as of the exact export")
    logit_kl: float = Field(description="largest mean KL divergence of the token distributions, in nats")

    def hold(self, agreement: float, divergence: float) -> bool:
        return agreement >= self.token_agreement and divergence <= self.logit_kl


BOUNDS: Final = Bounds(token_agreement=0.98, logit_kl=0.02)


class Try(Contract):
    """A part in 8 bits, measured."""

    kept_layers: tuple[str, ...] = Field(description="layers in 16 bits, as in model_prep.layer_names")
    token_agreement: float
    logit_kl: float


class Choice(Contract):
    """How a part is stored, where the preset auto decided."""

    format: Literal["int8", "fp16"]
    why: str = Field(description="a sentence; empty while 8 bits are tried")
    kept_layers: tuple[str, ...] = Field(default=(), description="layers in 16 bits of a part in 8 bits")
    tries: tuple[Try, ...] = ()
    loss_by_layers: dict[str, float] = Field(
        default_factory=dict,
        description="layers, with spaces between → KL divergence in nats with these alone in 8 bits",
    )

    @property
    def is_tried(self) -> bool:
        return not self.why


class Verification(Contract):
    """All comparisons of a folder and their results; null with a reason if memory was short."""

    parity: Parity | None
    losses: dict[str, Loss] = Field(description="losses of vision, language and whole, if they are not exact")
    left_out: str | None = Field(description="what was not compared and why")
    allowed_s: float | None = Field(default=None, description="seconds allowed; null is no limit")
    took_s: float | None = Field(default=None, description="time that comparing took")
    notes: tuple[str, ...] = Field(
        default=(), description="where a worker deviates from the checkpoint's settings"
    )
    choices: dict[str, Choice] = Field(
        default_factory=dict, description="what the preset auto decided for vision and language"
    )
    bounds: Bounds | None = Field(default=None, description="by which it decided")
    calibration_images: int
    calibration_skipped: int = Field(description="images that could not be read")


def share(found: float | None) -> str:
    """A share in percent; a dash for None."""
    return "–" if found is None else f"{found:.1%}"


def shortened(parity: Parity) -> list[str]:
    """Sentences about what was left out of the comparison."""
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
    """The results as Markdown for people."""
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
    lines += [line for choice in verification.choices.values() for line in (choice.why, "")]
    if verification.calibration_images:
        lines += [
            f"Calibrated with {counted(verification.calibration_images, 'image')}; "
            f"{verification.calibration_skipped} more could not be read.",
            "",
        ]
    for sentence in filter(None, (verification.left_out, *verification.notes)):
        lines += [sentence, ""]
    return "\n".join(lines)
