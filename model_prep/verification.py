"""Compares the parts of a model folder with the checkpoint and with each other; writes no file."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Final

import numpy as np

from contract.model_folder import LANGUAGE_XML, TEXT_XML, VISION_XML
from model_prep.calibration import Sample
from model_prep.inference import Language, PromptAndAnswer, best_s, compile_part, prefill, request_of
from model_prep.layer_blocks import Graph, LayerBlocks, UncutError
from model_prep.reference import FloatArray, IntArray, Prompt, Reference
from model_prep.refusal import ConversionError
from model_prep.verified import NEW_TOKENS, Loss, Parity

Files = Mapping[str, Path]
"""File name in contract.model_folder → path of that part."""
Vision = Callable[[FloatArray], FloatArray]
PROBED_POSITIONS: Final = 64
"""Positions of the first prompt that are timed to estimate the whole time."""
LEAST_POSITIONS: Final = 48
"""Positions of the first prompt that are always compared."""
MOST_POSITIONS: Final = 2**20
"""More positions than a prompt has."""
EXACT_RUN: Final = "exact"
"""Name of the uncompressed run."""
FURTHER_RUN: Final = "further"
"""Name of a run after the comparison."""
TIMED_LAYERS: Final = 2
"""Layers of the language model whose speed is measured."""
OnProgress = Callable[[int, int], None]
"""Gets the finished and all work, in layers passed by prompts."""


class TooSlowError(ConversionError):
    """The time does not allow to compare every sample."""

    def __init__(self) -> None:
        super().__init__("The time does not allow to compare every sample; --verify full takes all it needs.")


@dataclass(frozen=True)
class Picture:
    """What is compared of one sample's prompt."""

    sample: Sample
    prompt: Prompt
    places: IntArray
    """The compared positions of the prompt."""
    feature_difference: float
    """Largest difference of image features, export from torch, over the largest feature."""

    @property
    def embeds(self) -> FloatArray:
        """Embeddings of the compared positions, (position, hidden)."""
        return self.prompt.inputs_embeds[self.places]

    def embeds_by(self, reference: Reference, vision: Vision) -> FloatArray:
        """The same with image features of another vision model."""
        return reference.prompt(self.sample.image, self.sample.text, vision).inputs_embeds[self.places]


class Comparison:
    """Compares the exact export with the checkpoint in torch, and compressed parts with the exact export.

    `at_once` layers of the language model are in memory. If that is not all, no answer is generated; the
    compared tokens then follow model_prep.reference.REPLY instead of the exact answer.
    """

    def __init__(
        self,
        reference: Reference,
        exact: Files,
        at_once: int,
        on_progress: OnProgress = lambda _done, _total: None,
        prompts: Sequence[Prompt] = (),
    ) -> None:
        """`prompts` are those of the first samples, if they are made already."""
        self._reference = reference
        self._exact = exact
        self._at_once = min(at_once, reference.layers)
        self._generates = self._at_once == reference.layers
        self._on_progress = on_progress
        self._prompts = prompts
        self._done = self._total = 0
        self._pictures: list[Picture] = []
        self._token_ids: list[list[int]] = []
        self._logits: dict[str, list[FloatArray]] = {}

    def compare(
        self,
        samples: Sequence[Sample],
        compressed: Mapping[str, Files],
        budget_s: float = inf,
        *,
        every_sample: bool = False,
    ) -> tuple[Parity, dict[str, Loss]]:
        """The parity of the export, and for each name in `compressed` the loss of using its files instead.

        Compares as many samples as `budget_s` allows, by a time estimate from the first layers, and at least
        one, or all with `every_sample`; if needed with a choice of image features. There are no losses if
        parity does not hold. Raises UncutError, and TooSlowError if there is no time for every sample.
        """
        until_s = time.perf_counter() + budget_s
        runs = {EXACT_RUN: self._exact} | {
            name: {**self._exact, **files} for name, files in compressed.items()
        }
        vision = compile_part(self._exact[VISION_XML])
        decoder = self._decoder(self._exact[LANGUAGE_XML])
        pictures = self._chosen(samples, vision, decoder, runs, until_s, every_sample=every_sample)
        self._pictures = pictures
        del vision
        self._total = len(pictures) * self._reference.layers * (1 + len(runs))
        self._token_ids = [self._reference.reply(NEW_TOKENS)] * len(pictures)
        if isinstance(decoder, Language):
            self._generate(pictures, decoder)
        features = {
            xml: self._embeds(pictures, xml)
            for xml in dict.fromkeys(run[VISION_XML] for run in runs.values())
        }
        self._compute(runs, features, self._exact[LANGUAGE_XML], decoder)
        del decoder
        parity = self._parity(pictures)
        if not parity.holds:
            return parity, {}
        for xml in dict.fromkeys(run[LANGUAGE_XML] for run in runs.values()):
            if xml != self._exact[LANGUAGE_XML]:
                self._compute(runs, features, xml, self._decoder(xml))
        return parity, {name: self._loss(name, files, pictures[0]) for name, files in compressed.items()}

    def divergence(self, files: Files) -> float:
        """Mean KL divergence in nats of using `files` instead of the exact parts, after `compare`."""
        run = {**self._exact, **files}
        vision, xml = run[VISION_XML], run[LANGUAGE_XML]
        features = {vision: self._embeds(self._pictures, vision)}
        self._compute({FURTHER_RUN: run}, features, xml, self._decoder(xml))
        pairs = zip(self._logits[EXACT_RUN], self._logits.pop(FURTHER_RUN), strict=True)
        return float(np.mean([_divergence(exact, other) for exact, other in pairs]))

    def _chosen(
        self,
        samples: Sequence[Sample],
        vision: Vision,
        decoder: Language | LayerBlocks,
        runs: Mapping[str, Files],
        until_s: float,
        *,
        every_sample: bool,
    ) -> list[Picture]:
        """The samples and positions to compare until `until_s` of time.perf_counter()."""
        begun = time.perf_counter()
        first = self._picture(samples, 0, vision)
        seen_s = time.perf_counter() - begun
        cost = decoder.cost(first.embeds[:PROBED_POSITIONS])
        # Assume that torch and the compressed models take as long as the exact export.
        loads = 1 + len({run[LANGUAGE_XML] for run in runs.values()})
        position_s = (1 + len(runs)) * cost.position_s
        # Another vision model runs once for features, and again for its speed.
        others_s = seen_s * (len({run[VISION_XML] for run in runs.values()}) - 1)
        left_s = until_s - time.perf_counter() - loads * cost.loading_s - others_s
        first_s = position_s * (len(first.places) + NEW_TOKENS)
        if every_sample:
            left_s -= (len(samples) - 1) * (seen_s + others_s)
            positions = _positions_each(left_s / len(samples), position_s)
            rest = (self._picture(samples, number, vision) for number in range(1, len(samples)))
            return [replace(one, places=one.prompt.places(positions)) for one in (first, *rest)]
        if left_s < first_s:
            positions = max(LEAST_POSITIONS, int(left_s / position_s) - NEW_TOKENS)
            return [replace(first, places=first.prompt.places(positions))]
        more = min(len(samples), (left_s - first_s) / (first_s + seen_s + others_s / 2))
        others = range(1, min(len(samples), 1 + int(more)))
        return [first, *(self._picture(samples, number, vision) for number in others)]

    def _picture(self, samples: Sequence[Sample], number: int, vision: Vision) -> Picture:
        """A sample with all its positions."""
        sample = samples[number]
        made = number < len(self._prompts)
        prompt = self._prompts[number] if made else self._reference.prompt(sample.image, sample.text)
        difference = _relative(vision(prompt.tiles), prompt.features)
        return Picture(sample, prompt, np.arange(len(prompt.inputs_embeds)), difference)

    def _generate(self, pictures: Sequence[Picture], language: Language) -> None:
        """Generate the exact answers."""
        self._token_ids = []
        embed = compile_part(self._exact[TEXT_XML])
        self._logits[EXACT_RUN] = []
        for picture in pictures:
            token_ids, logits = language.greedy(picture.embeds, embed, NEW_TOKENS)
            self._token_ids.append(token_ids)
            self._logits[EXACT_RUN].append(logits)
            self._passed(self._reference.layers)

    def _decoder(self, xml: Path) -> Language | LayerBlocks:
        layers = self._reference.layers
        return Language(xml, layers) if self._generates else LayerBlocks(xml, self._at_once)

    def _embeds(self, pictures: Sequence[Picture], xml: Path) -> list[FloatArray]:
        """The prompts' embeddings with features of the vision model `xml`."""
        if xml == self._exact[VISION_XML]:
            return [picture.embeds for picture in pictures]
        vision = compile_part(xml)
        return [picture.embeds_by(self._reference, vision) for picture in pictures]

    def _compute(
        self,
        runs: Mapping[str, Files],
        features: Mapping[Path, Sequence[FloatArray]],
        language_xml: Path,
        decoder: Language | LayerBlocks,
    ) -> None:
        """Compute the logits of all runs with this language model, together through each of its blocks."""
        asked = []
        of_xml = (name for name, files in runs.items() if files[LANGUAGE_XML] == language_xml)
        names = [name for name in of_xml if name not in self._logits]
        for name in names:
            embed = compile_part(runs[name][TEXT_XML])
            asked += [
                PromptAndAnswer(prompt, _following(embed, token_ids))
                for prompt, token_ids in zip(features[runs[name][VISION_XML]], self._token_ids, strict=True)
            ]
        logits = iter(decoder.logits(asked, self._passed))
        self._logits |= {name: [next(logits) for _ in self._token_ids] for name in names}

    def _parity(self, pictures: Sequence[Picture]) -> Parity:
        logit_difference = 0.0
        same: list[bool] = []
        for picture, token_ids, logits in zip(
            pictures, self._token_ids, self._logits[EXACT_RUN], strict=True
        ):
            following = _following(self._reference.embed, token_ids)
            expected = self._reference.logits(
                np.concatenate([picture.embeds, following]), NEW_TOKENS, self._passed
            )
            logit_difference = max(logit_difference, _relative(logits, expected))
            same += (logits.argmax(-1) == expected.argmax(-1)).tolist()
        compared = sum(len(picture.places) for picture in pictures)
        return Parity(
            images=len(pictures),
            layers=self._at_once,
            of_layers=self._reference.layers,
            prompt_share=compared / sum(len(picture.prompt.inputs_embeds) for picture in pictures),
            max_feature_difference=max(picture.feature_difference for picture in pictures),
            max_logit_difference=logit_difference,
            tokens=len(same),
            token_agreement=float(np.mean(same)),
        )

    def _loss(self, name: str, compressed: Files, picture: Picture) -> Loss:
        pairs = list(zip(self._logits[EXACT_RUN], self._logits[name], strict=True))
        same = np.array([exact.argmax(-1) == other.argmax(-1) for exact, other in pairs])
        return Loss(
            size_ratio=_weights_bytes(compressed, compressed) / _weights_bytes(self._exact, compressed),
            speed_ratio=_speed_ratio(picture, self._exact, compressed),
            token_agreement=float(same.mean()),
            # Each token follows the exact answer's tokens, so the answers are equal if every one is the same.
            answer_agreement=float(same.all(-1).mean()) if self._generates else None,
            # For equal distributions it is a rounding error of either sign.
            logit_kl=max(0.0, float(np.mean([_divergence(exact, other) for exact, other in pairs]))),
        )

    def _passed(self, layers: int) -> None:
        self._done += layers
        self._on_progress(self._done, self._total)


def _positions_each(seconds: float, position_s: float) -> int:
    """Positions of a prompt that `seconds` allow. Raises TooSlowError if they are too few."""
    positions = inf if seconds == inf else seconds / position_s - NEW_TOKENS
    if positions < LEAST_POSITIONS:
        raise TooSlowError
    return int(min(positions, MOST_POSITIONS))


def _following(embed: Callable[[IntArray], FloatArray], token_ids: Sequence[int]) -> FloatArray:
    """Embeddings (token, hidden) of all tokens except the last one, which needs no next token."""
    embeds: FloatArray = embed(np.array([token_ids[:-1]], dtype=np.int64))[0]
    return embeds


def _relative(found: FloatArray, expected: FloatArray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _divergence(exact: FloatArray, other: FloatArray) -> FloatArray:
    """KL divergence of two logits (token, vocabulary) → (token,)."""
    exact_log, other_log = _log_softmax(exact), _log_softmax(other)
    divergence: FloatArray = (np.exp(exact_log) * (exact_log - other_log)).sum(-1)
    return divergence


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max(-1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _weights_bytes(files: Files, parts: Iterable[str]) -> int:
    return sum(files[part].with_suffix(".bin").stat().st_size for part in parts)


def _speed_ratio(picture: Picture, exact: Files, compressed: Files) -> float | None:
    """Speed over the exact export's: of the vision model on a tile, or of the first layers on a prompt.

    None for both together, and for layers that cannot be cut.
    """
    if (VISION_XML in compressed) == (LANGUAGE_XML in compressed):
        return None
    defaults: dict[str, str] = {}
    runs: list[Callable[[], object]] = []
    for files in (exact, compressed):
        if VISION_XML in compressed:
            runs.append(partial(compile_part(files[VISION_XML], defaults), picture.prompt.tiles[:1]))
            continue
        try:
            request = request_of(Graph(files[LANGUAGE_XML]).block(0, TIMED_LAYERS), defaults)
        except UncutError:
            return None
        runs.append(partial(prefill, request, picture.embeds))
    return best_s(runs[0]) / best_s(runs[1])
