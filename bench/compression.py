"""The measurement `compression`: the speed of each way to compress a part; measures no quality."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
import openvino as ov
import typer

from bench.folders import Folders, make_own
from bench.machine import describe
from bench.options import OUT, ModelSize, Out, chosen, progress
from bench.workloads import MIXED_SIZES_PX, QUESTIONS, draw
from contract.job import Question
from contract.model_folder import LANGUAGE_XML, VISION_XML
from model_prep.compress import compress_language, compress_vision, compress_weights
from model_prep.settings import LanguageSettings, VisionSettings
from worker.engine.cohort import Cohort
from worker.engine.graph import last_position_only
from worker.engine.request import FloatArray
from worker.llava.model import LlavaModel
from worker.llava.tiles import load_tiler

PROMPT_TOKENS: Final = 2351
PICTURE_PX: Final = (480, 640)
"""(height, width): 5 tiles, and PROMPT_TOKENS with a question."""
MANY_ROWS: Final = 8
STEPS: Final = 8
MOST: Final = 10**6
"""Positions of a row at most; no row here reaches them."""
SAMPLES: Final = 4
"""Pictures to calibrate with; speed does not depend on the calibrated ranges."""
PROFILED: Final = 6
"""Kinds of operation in a profile."""
PROFILED_CALLS: Final = 4
BASE: Final = "fp16"
GROUPS: Final = (0, 32, 64, 128)
"""Values of DYNAMIC_QUANTIZATION_GROUP_SIZE; 0 is off."""

VISION: Final[dict[str, VisionSettings | None]] = {
    "fp16": VisionSettings(),
    "int8 weights": None,
    "int8, alpha 0.15": VisionSettings(vision_format="int8", smooth_quant_alpha=0.15),
    "int8, alpha 0.6": VisionSettings(vision_format="int8", smooth_quant_alpha=0.6),
    "int8, alpha 0.95": VisionSettings(vision_format="int8", smooth_quant_alpha=0.95),
}
"""Name → settings; None for int8 weights without activations, which the settings do not offer."""
LANGUAGE: Final = {
    "fp16": LanguageSettings(),
    "int8": LanguageSettings(weight_format="int8"),
    "int8, activations too": LanguageSettings(weight_format="int8", activations="int8"),
    "int4 sym g64 r0.6": LanguageSettings(weight_format="int4", group_size=64, ratio=0.6, sym=True),
    "int4 sym g128": LanguageSettings(weight_format="int4", group_size=128, sym=True),
    "int4 asym g128": LanguageSettings(weight_format="int4", group_size=128, sym=False),
}
BY_GROUP: Final = ("int8", "int4 sym g64 r0.6", "int4 sym g128", "int4 asym g128")
"""Names in LANGUAGE that are measured with each of GROUPS."""
Timer = Callable[[], dict[str, float]]
"""Runs one trial: what was done → seconds."""


class Spent(NamedTuple):
    """Wall time and processor time of a call; other programs hardly change the processor time."""

    seconds: float
    cpu_seconds: float


@dataclass
class Contest:
    """Trials of several contestants in turn; the others are compared with the first one."""

    title: str
    contestants: dict[str, Timer]
    seconds: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """(contestant, what was done) → seconds of each round."""

    def hold(self, rounds: int) -> None:
        """Run all rounds after one that does not count; the order rotates from round to round."""
        names = list(self.contestants)
        for name in names:
            self.contestants[name]()
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for what, seconds in self.contestants[name]().items():
                    self.seconds[name, what].append(seconds)

    def markdown(self) -> str:
        """A table of median ms, and speed over the first contestant's: the median of the rounds' ratios."""
        names = list(self.contestants)
        works = list(dict.fromkeys(what for _, what in self.seconds))
        lines = [["", *works], ["---", *("---:" for _ in works)]]
        for name in names:
            cells = []
            for what in works:
                own, first = self.seconds[name, what], self.seconds[names[0], what]
                ratio = statistics.median(b / a for a, b in zip(own, first, strict=True))
                cells.append(f"{1e3 * statistics.median(own):.0f} ({ratio:.2f} ×)")
            lines.append([name, *cells])
        rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {self.title}\n\n{rows}"

    def content(self) -> dict[str, Any]:
        trials = [{"who": who, "what": what, "seconds": s} for (who, what), s in self.seconds.items()]
        return {"title": self.title, "trials": trials}


class Variants:
    """The parts of one model with every setting, made once and kept as IR."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._root = folders.root / "compression"

    def vision(self, name: str) -> Path:
        """The IR of VISION[name]."""
        settings = VISION[name]

        def make(model: ov.Model) -> ov.Model:
            if settings is None:
                return compress_weights(model, "int8")
            return compress_vision(model, settings, self._tiles() if settings.needs_calibration else None)

        return self._once(f"vision {name}", VISION_XML, make)

    def language(self, name: str) -> Path:
        """The IR of LANGUAGE[name]."""
        settings = LANGUAGE[name]

        def make(model: ov.Model) -> ov.Model:
            prompts = self._prompts() if settings.needs_calibration else None
            return compress_language(model, settings, prompts)

        return self._once(f"language {name}", LANGUAGE_XML, make)

    def _once(self, name: str, xml: str, make: Callable[[ov.Model], ov.Model]) -> Path:
        path = self._root / f"{name.replace(', ', '-').replace(' ', '-')}.xml"
        if not path.exists():
            begun = time.perf_counter()
            model = make(ov.Core().read_model(self._folders.own("fp16") / xml))
            self._root.mkdir(parents=True, exist_ok=True)
            # Rename the weights first: if the .xml is there, both are complete.
            partial = path.with_name(f"partial-{path.name}")
            ov.save_model(model, partial, compress_to_fp16=False)
            partial.with_suffix(".bin").rename(path.with_suffix(".bin"))
            partial.rename(path)
            progress.log(f"made {name} in {time.perf_counter() - begun:.0f} s")
        return path

    def _tiles(self) -> list[FloatArray]:
        tiler = load_tiler(self._folders.own("fp16"), "anyres")
        sizes = MIXED_SIZES_PX[:SAMPLES]
        return [tiler(draw(size, seed)).pixel_values for seed, size in enumerate(sizes)]

    def _prompts(self) -> list[FloatArray]:
        model = LlavaModel.load(self._folders.own("fp16"), "CPU", {})
        pictures = [model.encode_image(draw(PICTURE_PX, seed)) for seed in range(SAMPLES)]
        questions = [Question(id="q", messages=text) for text in QUESTIONS[:SAMPLES]]
        return [model.prompt(q, p).inputs_embeds for q, p in zip(questions, pictures, strict=True)]


class VisionModel:
    """A compiled vision model and the tiles of one picture."""

    def __init__(self, xml: Path, pixel_values: FloatArray, properties: Mapping[str, str]) -> None:
        self.request = ov.Core().compile_model(xml, "CPU", dict(properties)).create_infer_request()
        self._pixel_values = pixel_values

    def trial(self) -> dict[str, float]:
        spent = _timed(lambda: self.request.infer([self._pixel_values], share_inputs=True))
        return _named(f"vision, {len(self._pixel_values)} tiles", spent)


class LanguageModel:
    """A compiled language model, and random embeddings as its input."""

    def __init__(self, xml: Path, properties: Mapping[str, str]) -> None:
        core = ov.Core()
        model = core.read_model(xml)
        last_position_only(model)
        self._hidden = model.input("inputs_embeds").get_partial_shape()[2].get_length()
        self._random = np.random.default_rng(0)
        self.request = core.compile_model(model, "CPU", dict(properties)).create_infer_request()

    def trial(self) -> dict[str, float]:
        """One trial: a prefill, steps of one row, and steps of many rows after a fork."""
        cohort, prefill = self.prefill()
        spent = _named(f"prefill, {PROMPT_TOKENS} positions", prefill)
        spent |= _named("step of 1 row", self._steps(cohort))
        while len(cohort.rows) < MANY_ROWS:
            cohort.rows[0].fork(MOST, None)
        # This step includes the fork and does not count.
        self._step(cohort)
        return spent | _named(f"step of {MANY_ROWS} rows", self._steps(cohort))

    def prefill(self) -> tuple[Cohort, Spent]:
        """A cohort with one row of PROMPT_TOKENS, and the time for it."""
        self.request.reset_state()
        cohort = Cohort(self.request)
        cohort.begin(MOST)
        return cohort, self._step(cohort, PROMPT_TOKENS)

    def _steps(self, cohort: Cohort) -> Spent:
        return min(self._step(cohort) for _ in range(STEPS))

    def _step(self, cohort: Cohort, positions: int = 1) -> Spent:
        shape = (positions, self._hidden)
        pieces = {row: 0.02 * self._random.standard_normal(shape, dtype=np.float32) for row in cohort.rows}
        return _timed(lambda: cohort.append(pieces))


def profile(request: ov.InferRequest) -> list[tuple[str, float]]:
    """(kind and implementation of operation, milliseconds of a mean call), longest first.

    The model must be compiled with PERF_COUNT.
    """
    milliseconds: defaultdict[str, float] = defaultdict(float)
    for operation in request.profiling_info:
        kind = f"{operation.node_type} ({operation.exec_type})"
        milliseconds[kind] += operation.real_time.total_seconds() * 1e3
    return sorted(milliseconds.items(), key=lambda item: -item[1])[:PROFILED]


def profiles(
    variants: Variants, vision: Sequence[str], language: Sequence[str], pixel_values: FloatArray
) -> list[str]:
    """A line for each name: where a vision pass or a prefill spends its time."""
    lines = []
    for name in vision:
        tower = VisionModel(variants.vision(name), pixel_values, {"PERF_COUNT": "YES"})
        for _ in range(PROFILED_CALLS):
            tower.trial()
        lines.append(_line(f"vision, {name}", tower.request))
    for name in language:
        decoder = LanguageModel(variants.language(name), {"PERF_COUNT": "YES"})
        for _ in range(PROFILED_CALLS):
            decoder.prefill()
        lines.append(_line(f"prefill, {name}", decoder.request))
    return lines


def _line(name: str, request: ov.InferRequest) -> str:
    return f"- {name}: " + ", ".join(f"{kind} {ms:.0f} ms" for kind, ms in profile(request))


def _timed(work: Callable[[], object]) -> Spent:
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - begun, time.process_time() - begun_cpu)


def _named(what: str, spent: Spent) -> dict[str, float]:
    return {f"{what}, ms": spent.seconds, f"{what}, CPU ms": spent.cpu_seconds}


def contests(
    variants: Variants, pixel_values: FloatArray, vision: Sequence[str], language: Sequence[str]
) -> Iterator[Contest]:
    """The contests one after another, as each keeps its models in memory."""
    if vision:
        vision_models = {name: VisionModel(variants.vision(name), pixel_values, {}) for name in vision}
        yield Contest("Vision", {name: model.trial for name, model in vision_models.items()})
        vision_models.clear()
    if language:
        models = {name: LanguageModel(variants.language(name), {}) for name in language}
        yield Contest("Language model", {name: model.trial for name, model in models.items()})
        models.clear()
    for name in (name for name in BY_GROUP if name in language):
        models = {BASE: LanguageModel(variants.language(BASE), {})}
        for group in GROUPS:
            properties = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}
            models[f"{name}, {group or 'off'}"] = LanguageModel(variants.language(name), properties)
        title = f"{name}, by dynamic quantization group"
        yield Contest(title, {name: model.trial for name, model in models.items()})
        models.clear()


def _settings(named: str | None, known: Mapping[str, object]) -> list[str]:
    """BASE and the settings in `named`, all of `known` if it is None, none if it is empty."""
    names = [] if named == "" else chosen("settings", named, list(known), separator=";")
    return list(dict.fromkeys([BASE, *names])) if names else []


def main(
    size: ModelSize = "mid",
    vision: Annotated[
        str | None, typer.Option(help="Settings, semicolons between; all if not given.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Settings, semicolons between; all if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    out: Out = OUT,
) -> None:
    """Time vision, prefill and decoding in every weight format, in turns, with profiles."""
    names = _settings(vision, VISION), _settings(language, LANGUAGE)
    folders = Folders(out.resolve(), size)
    make_own(folders, progress.log)
    variants = Variants(folders)
    pixel_values = load_tiler(folders.own("fp16"), "anyres")(draw(PICTURE_PX, seed=0)).pixel_values
    for name in names[0]:
        variants.vision(name)
    for name in names[1]:
        variants.language(name)
    path = folders.root / f"compression-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    held = []
    for contest in contests(variants, pixel_values, *names):
        contest.hold(rounds)
        print(contest.markdown(), flush=True)
        held.append(contest.content())
        path.write_text(json.dumps({"machine": describe(None), "contests": held}, indent=1) + "\n")
    print("\n".join(profiles(variants, *names, pixel_values)))
