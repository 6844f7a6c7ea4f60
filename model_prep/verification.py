"""Compares the parts of a model folder with the checkpoint and with each other; writes no file."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

import numpy as np

from contract.model_folder import LANGUAGE_XML, TEXT_XML, VISION_XML
from model_prep.calibration import Sample
from model_prep.inference import Language, best_s, compile_part
from model_prep.reference import FloatArray, Prompt, Reference
from model_prep.verified import NEW_TOKENS, Loss, Parity

Files = Mapping[str, Path]
"""Where each part lies, by its file name in contract.model_folder."""


@dataclass(frozen=True)
class Answered:
    """What the exact export says to one prompt."""

    prompt: Prompt
    sample: Sample
    token_ids: list[int]
    logits: FloatArray
    """(new token, vocabulary)"""


def compare_parity(
    reference: Reference,
    samples: Sequence[Sample],
    vision_xml: Path,
    language: Language,
    of_layers: int,
    budget_s: float = inf,
) -> tuple[Parity, list[Answered]]:
    """The exact export against torch; and what it answers.

    `language` has as many layers as the reference, of `of_layers`. Of the samples at least one is compared,
    and as many as `budget_s` allows when each takes as long as the first.
    """
    vision = compile_part(vision_xml)
    feature_difference = logit_difference = 0.0
    same: list[bool] = []
    answered = []
    allowed = 1.0
    begun = time.perf_counter()
    for number, sample in enumerate(samples):
        if number == 1:
            allowed = budget_s / (time.perf_counter() - begun)
        if number >= max(1, allowed):
            break
        prompt = reference.prompt(sample.image, sample.text)
        feature_difference = max(feature_difference, _relative(vision(prompt.tiles), prompt.features))
        token_ids, logits = language.greedy(prompt.inputs_embeds, reference.embed, NEW_TOKENS)
        following = reference.embed(np.array([token_ids[:-1]], dtype=np.int64))[0]
        expected = reference.logits(np.concatenate([prompt.inputs_embeds, following]))[-NEW_TOKENS:]
        logit_difference = max(logit_difference, _relative(logits, expected))
        same += (logits.argmax(-1) == expected.argmax(-1)).tolist()
        answered.append(Answered(prompt, sample, token_ids, logits))
    parity = Parity(
        images=len(answered),
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
