"""Makes the demo model's folder with other settings, calibrated on demo scenes; evaluates none."""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Final

import openvino

from contract.job import Question
from contract.model_folder import LANGUAGE_XML, MANIFEST_JSON, TEXT_XML, VISION_XML
from demo.scenes import draw, make_scene
from demo.truth import DESCRIBE, READ_NUMBER
from model_prep.compress import compress_language, compress_text, compress_vision
from model_prep.quantize import FloatArray
from model_prep.settings import PRESETS, LanguageSettings, PrepSettings, VisionSettings
from worker.llava.model import LlavaModel
from worker.llava.tiles import load_tiler

FIRST_SEED: Final = 950_000
"""First seed of the scenes for calibration, which are not used for training or evaluation."""
FP16_VISION: Final = VisionSettings()


def _int4(**wishes: object) -> PrepSettings:
    """int4 in the language model only, to measure its effect alone."""
    language = LanguageSettings.model_validate({"weight_format": "int4", **wishes})
    return PrepSettings(language=language, vision=FP16_VISION)


def _vision(alpha: float) -> PrepSettings:
    """int8 in the vision tower only."""
    return PrepSettings(vision=VisionSettings(vision_format="int8", smooth_quant_alpha=alpha))


INT8: Final = LanguageSettings(weight_format="int8")
INT8_ACTIVATIONS: Final = LanguageSettings(weight_format="int8", activations="int8")
SETTINGS: Final[dict[str, PrepSettings]] = {
    **{str(name): preset for name, preset in PRESETS.items()},
    "int8": PrepSettings(language=INT8),
    "int8-activations": PrepSettings(language=INT8_ACTIVATIONS),
    **{f"vision-int8-a{alpha}": _vision(alpha) for alpha in (0.15, 0.4, 0.6, 0.8)},
    "int4-sym-g128": _int4(sym=True, group_size=128),
    "int4-sym-g64": _int4(sym=True, group_size=64),
    "int4-asym-g128": _int4(sym=False, group_size=128),
    "int4-asym-g64": _int4(sym=False, group_size=64),
    "int4-sym-g128-scales": _int4(sym=True, group_size=128, scale_estimation=True),
    "int4-asym-g128-scales": _int4(sym=False, group_size=128, scale_estimation=True),
    "int4-asym-g128-awq-scales": _int4(sym=False, group_size=128, awq=True, scale_estimation=True),
}
"""Name → settings to compare; docs/compression.md has the results."""


class Workshop:
    """Makes compressed folders from an fp32 folder."""

    def __init__(self, exact: Path) -> None:
        self._exact = exact

    def make(self, settings: PrepSettings, out: Path) -> None:
        """Write a folder with these settings into `out`, which must not exist."""
        parts = {
            Path(xml).with_suffix(kind).name
            for xml in (VISION_XML, TEXT_XML, LANGUAGE_XML)
            for kind in (".xml", ".bin")
        }
        shutil.copytree(self._exact, out, ignore=shutil.ignore_patterns(*parts, MANIFEST_JSON))
        tiles = self._tiles[: settings.samples] if settings.vision.needs_calibration else None
        prompts = self._prompts[: settings.samples] if settings.language.needs_calibration else None
        core = openvino.Core()
        made = {
            VISION_XML: compress_vision(core.read_model(self._exact / VISION_XML), settings.vision, tiles),
            TEXT_XML: compress_text(core.read_model(self._exact / TEXT_XML), settings.language),
            LANGUAGE_XML: compress_language(
                core.read_model(self._exact / LANGUAGE_XML), settings.language, prompts
            ),
        }
        for xml, model in made.items():
            openvino.save_model(model, out / xml, compress_to_fp16=False)

    @cached_property
    def _tiles(self) -> list[FloatArray]:
        tiler = load_tiler(self._exact, "anyres")
        return [tiler(draw(make_scene(seed))).pixel_values for seed in self._seeds]

    @cached_property
    def _prompts(self) -> list[FloatArray]:
        """Embedded prompts of calibration scenes, asking for a description or the number in turn."""
        model = LlavaModel.load(self._exact, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        texts = (*DESCRIBE, *READ_NUMBER)
        return [
            model.prompt(
                Question(id="q", messages=texts[seed % len(texts)]),
                model.encode_image(draw(make_scene(seed))),
            ).inputs_embeds
            for seed in self._seeds
        ]

    @property
    def _seeds(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + max(settings.samples for settings in SETTINGS.values()))
