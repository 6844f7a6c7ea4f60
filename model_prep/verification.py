"""Compares the parts of a model folder with the checkpoint and with each other; knows no files but its own.

What a folder is published with: `verification.json`, and the same for people in `verification.md`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field

from contract.base import Contract
from contract.model_folder import LANGUAGE_XML, TEXT_XML, VISION_XML
from model_prep.calibration import Sample
from model_prep.inference import Language, best_s, compile_part
from model_prep.reference import FloatArray, Prompt, Reference

NEW_TOKENS: Final = 16
PARITY_TOLERANCE: Final = 1e-3
"""Of the largest logit or feature: what the order of summation may make of float32."""
Files = Mapping[str, Path]
"""Where each part lies, by its file name in contract.model_folder."""
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

    parity: Parity
    losses: dict[str, Loss] = Field(description="vision, language and whole, where they are not exact")
    left_out: str | None = Field(description="what was not compared, and why")
    calibration_images: int
    calibration_skipped: int = Field(description="of those tried, how many could not be read")


@dataclass(frozen=True)
class Answered:
    """What the exact export says to one prompt."""

    prompt: Prompt
    sample: Sample
    token_ids: list[int]
    logits: FloatArray
    """(new token, vocabulary)"""


def compare_parity(
    reference: Reference, samples: Sequence[Sample], vision_xml: Path, language: Language, of_layers: int
) -> tuple[Parity, list[Answered]]:
    """The exact export against torch, on every sample; and what it answers.

    `language` has as many layers as the reference, of `of_layers`.
    """
    vision = compile_part(vision_xml)
    feature_difference = logit_difference = 0.0
    same: list[bool] = []
    answered = []
    for sample in samples:
        prompt = reference.prompt(sample.image, sample.text)
        feature_difference = max(feature_difference, _relative(vision(prompt.tiles), prompt.features))
        token_ids, logits = language.greedy(prompt.inputs_embeds, reference.embed, NEW_TOKENS)
        following = reference.embed(np.array([token_ids[:-1]], dtype=np.int64))[0]
        expected = reference.logits(np.concatenate([prompt.inputs_embeds, following]))[-NEW_TOKENS:]
        logit_difference = max(logit_difference, _relative(logits, expected))
        same += (logits.argmax(-1) == expected.argmax(-1)).tolist()
        answered.append(Answered(prompt, sample, token_ids, logits))
    parity = Parity(
        images=len(samples),
        layers=reference.layers,
        of_layers=of_layers,
        max_feature_difference=feature_difference,
        max_logit_difference=logit_difference,
        tokens=len(same),
        token_agreement=float(np.mean(same)),
    )
    return parity, answered


def measure_loss(
    reference: Reference,
    answered: Sequence[Answered],
    exact: Files,
    compressed: Files,
) -> Loss:
    """What it changes to take the parts `compressed` instead of those of the `exact` export."""
    files = {**exact, **compressed}
    vision = compile_part(files[VISION_XML])
    embed = compile_part(files[TEXT_XML])
    language = Language(files[LANGUAGE_XML])
    same_tokens: list[bool] = []
    same_answers: list[bool] = []
    divergences: list[float] = []
    for was in answered:
        inputs_embeds = was.prompt.inputs_embeds
        if VISION_XML in compressed:
            inputs_embeds = reference.prompt(was.sample.image, was.sample.text, vision).inputs_embeds
        following = embed(np.array([was.token_ids[:-1]], dtype=np.int64))[0]
        logits = language.logits(inputs_embeds, following)
        same_tokens += (logits.argmax(-1) == was.logits.argmax(-1)).tolist()
        divergences += _divergence(was.logits, logits).tolist()
        same_answers.append(language.greedy(inputs_embeds, embed, NEW_TOKENS)[0] == was.token_ids)
    return Loss(
        size_ratio=_weights_bytes(compressed, compressed) / _weights_bytes(exact, compressed),
        speed_ratio=_speed_ratio(answered[0].prompt, exact, compressed),
        token_agreement=float(np.mean(same_tokens)),
        answer_agreement=float(np.mean(same_answers)),
        # Of equal distributions it is a rounding error of either sign.
        logit_kl=max(0.0, float(np.mean(divergences))),
    )


def report(verification: Verification, title: str) -> str:
    """Markdown for whoever decides whether to use the folder."""
    parity = verification.parity
    lines = [
        f"# Verification of {title}",
        "",
        f"The exact export beside the checkpoint in float32, {parity.images} images, {parity.layers} of "
        f"{parity.of_layers} layers: largest difference of a logit {parity.max_logit_difference:.1e} and of "
        f"an image feature {parity.max_feature_difference:.1e} of the largest; {parity.token_agreement:.1%} "
        f"of {parity.tokens} tokens the same.",
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
    if verification.left_out:
        lines += [verification.left_out, ""]
    return "\n".join(lines)


def _relative(found: FloatArray, expected: FloatArray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _divergence(exact: FloatArray, other: FloatArray) -> FloatArray:
    """KL of the distributions (token, vocabulary) → (token,)."""
    exact_log, other_log = _log_softmax(exact), _log_softmax(other)
    divergence: FloatArray = (np.exp(exact_log) * (exact_log - other_log)).sum(-1)
    return divergence


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _weights_bytes(files: Files, parts: Iterable[str]) -> int:
    return sum(files[part].with_suffix(".bin").stat().st_size for part in parts)


def _speed_ratio(prompt: Prompt, exact: Files, compressed: Files) -> float | None:
    """Of the vision model, or of the language model's prefill; of both together there is none."""
    if (VISION_XML in compressed) == (LANGUAGE_XML in compressed):
        return None
    defaults: dict[str, str] = {}
    runs: list[Callable[[], object]] = []
    for files in (exact, compressed):
        if VISION_XML in compressed:
            runs.append(partial(compile_part(files[VISION_XML], defaults), prompt.tiles))
        else:
            runs.append(partial(Language(files[LANGUAGE_XML], defaults).prefill, prompt.inputs_embeds))
    return best_s(runs[0]) / best_s(runs[1])
