"""The conversion of a checkpoint into a published model folder, step by step; other files do each step.

Finished parts stay in a work folder beside the new folder until that is published. A conversion that is
started again, after an interruption or with other settings, makes only what differs.
"""

import filecmp
import gc
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any, Final

import openvino

from contract.model_folder import (
    CONFIG_JSON,
    LANGUAGE_XML,
    TEXT_XML,
    VISION_XML,
    FolderManifest,
    context_tokens,
)
from model_prep.builtin import calibration_samples, held_out_samples
from model_prep.calibration import Samples
from model_prep.checkpoint import Checkpoint, ParameterCounts, load_model, open_checkpoint
from model_prep.compress import BYTES_PER_WEIGHT, bytes_per_weight, compress_part
from model_prep.deciding import IN_WORDS, first_choices, judged, next_choices, settings_with, stays
from model_prep.export import export_language, export_text, export_vision, forget_traces
from model_prep.generation import end_token_ids, sampling_defaults, write_generation_config
from model_prep.graph_names import name_by_place
from model_prep.layer_blocks import UncutError
from model_prep.pictures import drawn_samples
from model_prep.processor import Processing, load_processing
from model_prep.publish import publish, require_place
from model_prep.quantize import UnquantizableError
from model_prep.ranking import loss_by_layers
from model_prep.reading import AS_IT_SAYS, Reading
from model_prep.reference import Prompt, Reference
from model_prep.refusal import ConversionError
from model_prep.resources import (
    CALIBRATING_S,
    available_memory_bytes,
    calibrating_bytes,
    calibrating_s,
    layers_at_once,
    require_disk,
    require_memory,
)
from model_prep.settings import BUILTIN, PrepSettings, Step
from model_prep.source import Source, fetch_weights, find_source, weight_files
from model_prep.tokenizer import require_openvino_tokenizers, write_openvino_tokenizer
from model_prep.verification import Comparison, TooSlowError
from model_prep.verified import (
    BOUNDS,
    VERIFICATION_JSON,
    VERIFICATION_MD,
    Choice,
    Loss,
    Parity,
    Verification,
    report,
)
from model_prep.work import Inputs, Product, WorkFolder, opened, work_path

MADE_WITH: Final = ("openvino", "nncf", "torch", "transformers")
EXPORTS: Final = {VISION_XML: export_vision, TEXT_XML: export_text, LANGUAGE_XML: export_language}
PART_NAMES: Final = {
    VISION_XML: "vision tower and projector",
    TEXT_XML: "token embeddings",
    LANGUAGE_XML: "language model",
}
NO_SAMPLES: Final = Samples((), skipped=0)
NAME_PATTERN: Final = r"[A-Za-z0-9._-]+"
COMPARED_IMAGES: Final = 4
"""Images of a verification."""
VERIFYING_SHARE: Final = 0.25
"""Time of a quick verification, as a share of the time for exporting and compressing."""
LOSSES_JSON: Final = "losses.json"
SECONDS_FILE: Final = ".seconds"
"""File beside a part with the seconds it took to make."""
COMPUTED_FROM: Final = (CONFIG_JSON, "*.safetensors", "*.bin")
"""Files of a checkpoint that determine what its parts compute."""
DECIDING_S: Final = 600.0
"""Seconds that comparing may take for the preset auto."""


@dataclass
class Conversion:
    """One conversion: what was asked for, what was found, and the work folder."""

    source: Source
    checkpoint: Checkpoint
    processing: Processing
    ends: int | list[int]
    settings: PrepSettings
    samples: Samples
    calibration_key: str | None
    work: WorkFolder
    on_stage: Callable[[str], None]
    on_compared: Callable[[int, int], None]
    memory_bytes: int | None
    _prompts: list[Prompt] | None = None
    choices: dict[str, Choice] = field(default_factory=dict)
    """What the preset auto has decided or tries, by which `settings` are changed."""

    @property
    def files(self) -> Inputs:
        """Size and time of all files of the checkpoint."""
        folders = enumerate(self.checkpoint.folders)
        return {str(number): _stamps(folder, "*") for number, folder in folders}

    @property
    def computed_from(self) -> Inputs:
        """What determines an export: config, weights and package versions."""
        folders = enumerate(self.checkpoint.folders)
        return {
            "files": {str(number): _stamps(folder, *COMPUTED_FROM) for number, folder in folders},
            "made_with": made_with(),
        }

    @property
    def asked_about(self) -> Inputs:
        """What determines the calibration prompts: images, chat template and the checkpoint's files."""
        return {
            "calibration": self.calibration_key,
            "files": self.files,
            "chat_template": self.processing.template.text,
        }

    def prompts(self) -> list[Prompt]:
        """The calibration samples as prompts, with image features of the checkpoint's own vision model."""
        if self._prompts is None:
            self.on_stage("calibration prompts")
            reference = Reference(self.checkpoint, self.processing)
            self._prompts = [reference.prompt(sample.image, sample.text) for sample in self.samples]
        return self._prompts

    def products(self, stop_after: Step | None) -> list[Product] | None:
        """All parts of a model folder, made now or before; None if it stops after `stop_after`."""
        exported = {xml: self.export(xml) for xml in EXPORTS}
        if stop_after == "export":
            return None
        if self.settings.within_bounds:
            self._choose(first_choices(self.settings, _obstacles(self)))
        while True:
            compressed = self._compressed(exported)
            companions = self.companions()
            if stop_after == "compress":
                return None
            verified = self.verify(exported, compressed)
            choices = read_verification(verified.folder).choices
            if not any(choice.is_tried for choice in choices.values()):
                break
            self._choose(next_choices(choices, partial(_loss_by_layers, self, exported)))
        return None if stop_after == "verify" else [*compressed.values(), companions, verified]

    def _choose(self, choices: dict[str, Choice]) -> None:
        self.choices = choices
        self.settings = settings_with(self.settings, choices)

    def _compressed(self, exported: dict[str, Product]) -> dict[str, Product]:
        """All parts in the requested formats, or in 16 bits where the preset auto may choose and must."""
        found: dict[str, Product] = {}
        for xml, product in exported.items():
            try:
                found[xml] = self.compress(xml, product)
            except UnquantizableError as error:
                part = "vision" if xml == VISION_XML else "language"
                if part not in self.choices:
                    raise
                self._choose({**self.choices, part: stays(part, error.reason, self.choices[part])})
                # From the first one on: the token embeddings have the language model's format.
                return self._compressed(exported)
        return found

    @property
    def available_bytes(self) -> int:
        """Memory for calibrating and verifying."""
        return available_memory_bytes() if self.memory_bytes is None else self.memory_bytes

    @property
    def layers_at_once(self) -> int:
        of_layers: int = self.checkpoint.config.text_config.num_hidden_layers
        return layers_at_once(self.checkpoint.parameters, of_layers, self.available_bytes)

    def export(self, xml: str) -> Product:
        """One part with the checkpoint's own weights, without loss."""

        def make(folder: Path) -> None:
            self.on_stage(f"exporting {PART_NAMES[xml]}")
            with _timed(folder):
                model = load_model(self.checkpoint, "auto")
                save(EXPORTS[xml](model), folder / xml)

        product = self.work.product(f"export-{Path(xml).stem}", {**self.computed_from, "part": xml}, make)
        forget_traces()
        return product

    def compress(self, xml: str, exported: Product) -> Product:
        """One part in the requested format."""
        asked = self.settings.vision if xml == VISION_XML else self.settings.language
        calibrated = asked.needs_calibration and xml != TEXT_XML

        def make(folder: Path) -> None:
            with _timed(folder):
                prompts = self.prompts() if calibrated else None
                if self.settings.within_bounds and xml == LANGUAGE_XML and prompts is not None:
                    _require_time(self.checkpoint.parameters, prompts)
                self.on_stage(f"compressing {PART_NAMES[xml]}")
                model = openvino.Core().read_model(exported.folder / xml)
                save(compress_part(model, xml, self.settings, prompts), folder / xml)

        inputs = {
            "exported": exported.key,
            "settings": asked.model_dump(),
            "calibration": self.asked_about if calibrated else None,
        }
        product = self.work.product(Path(xml).stem, inputs, make)
        gc.collect()
        return product

    def companions(self) -> Product:
        """Config, processor and tokenizer."""

        def make(folder: Path) -> None:
            self.on_stage("config, processor and tokenizer")
            model = load_model(self.checkpoint, "auto")
            _write_config(model, folder)
            write_generation_config(self.ends, self.source.folder, folder)
            processor = self.processing.processor
            processor.save_pretrained(folder)
            # Readers of the optimum layout want the image processor in a separate file.
            processor.image_processor.save_pretrained(folder)
            if self.settings.openvino_tokenizer:
                write_openvino_tokenizer(processor.tokenizer, folder)

        inputs = {
            "files": self.files,
            "made_with": made_with(),
            "openvino_tokenizer": self.settings.openvino_tokenizer,
            "chat_template": self.processing.template.text,
        }
        return self.work.product("companions", inputs, make)

    def verify(self, exported: dict[str, Product], compressed: dict[str, Product]) -> Product:
        """The comparison of the export with the checkpoint, and of the compressed parts with the export."""

        def make(folder: Path) -> None:
            self.on_stage("verifying")
            found = _verification(self, exported, compressed)
            if self.settings.within_bounds:
                found = found.model_copy(update={"choices": judged(self.choices, found), "bounds": BOUNDS})
            (folder / VERIFICATION_JSON).write_text(found.model_dump_json(indent=2) + "\n")
            (folder / VERIFICATION_MD).write_text(report(found, self.source.name))

        inputs = {
            "exported": {xml: product.key for xml, product in exported.items()},
            "compressed": {xml: product.key for xml, product in compressed.items()},
            "asked": self.asked_about,
            "depth": self.settings.verify,
            "choices": {part: choice.model_dump() for part, choice in self.choices.items()},
        }
        return self.work.product("verification", inputs, make)


def _verification(
    made: Conversion, exported: dict[str, Product], compressed: dict[str, Product]
) -> Verification:
    if made.settings.verify == "none":
        return _record(made, None, {}, "Nothing was compared, as --verify none asked.")
    exact = {xml: product.folder / xml for xml, product in exported.items()}
    changed = {
        xml: product.folder / xml
        for xml, product in compressed.items()
        if not filecmp.cmp(_weights(exact[xml]), _weights(product.folder / xml), shallow=False)
    }
    at_once = made.layers_at_once
    allowed_s = _allowed_s(made, (*exported.values(), *compressed.values()))
    begun = time.perf_counter()
    reference = Reference(made.checkpoint, made.processing)
    # What the preset auto decides by are pictures that nothing was calibrated with.
    decided = any(choice.format == "int8" for choice in made.choices.values())
    tried = any(choice.is_tried for choice in made.choices.values())
    samples = held_out_samples() if decided else [*made.samples, *drawn_samples()][:COMPARED_IMAGES]
    prompts = () if decided else made._prompts or ()
    comparison = Comparison(reference, exact, at_once, made.on_compared, prompts)
    try:
        parity, losses = comparison.compare(
            tuple(samples), _wanted(changed), inf if allowed_s is None else allowed_s, every_sample=tried
        )
    except TooSlowError:
        minutes = f"{DECIDING_S / 60:.0f} minutes"
        return _record(made, None, {}, f"Comparing it on every held-out picture takes over {minutes}.")
    except UncutError:
        of_layers = made.checkpoint.config.text_config.num_hidden_layers
        left_out = (
            f"Memory held {at_once} of {of_layers} layers in float32, and this language model cannot be "
            "cut between its layers, so nothing was compared."
        )
        return _record(made, None, {}, left_out)
    if not parity.holds:
        raise ConversionError(
            f"The export of {made.source.name} does not compute what the checkpoint does: logits differ "
            f"by {parity.max_logit_difference:.1e} and image features by "
            f"{parity.max_feature_difference:.1e} of the largest; nothing is published."
        )
    found = _record(made, parity, losses, None)
    return found.model_copy(update={"allowed_s": allowed_s, "took_s": time.perf_counter() - begun})


def _allowed_s(made: Conversion, products: Sequence[Product]) -> float | None:
    """Seconds for comparing these parts; None is no limit."""
    if any(choice.format == "int8" for choice in made.choices.values()):
        return DECIDING_S
    if made.settings.verify == "full":
        return None
    return VERIFYING_SHARE * sum(float((one.folder / SECONDS_FILE).read_text()) for one in products)


def _record(
    made: Conversion, parity: Parity | None, losses: dict[str, Loss], left_out: str | None
) -> Verification:
    return Verification(
        parity=parity,
        losses=losses,
        left_out=left_out,
        notes=_notes(made.source, made.checkpoint),
        calibration_images=len(made.samples),
        calibration_skipped=made.samples.skipped,
    )


def _obstacles(made: Conversion) -> dict[str, str | None]:
    """Why vision and language model cannot be tried in 8 bits, if they cannot."""
    if made.settings.verify == "none":
        return dict.fromkeys(IN_WORDS, "--verify none compares nothing to decide by")
    return {part: _short_memory(made, part) for part in IN_WORDS}


def _short_memory(made: Conversion, part: str) -> str | None:
    needed, available = calibrating_bytes(made.checkpoint.parameters, part), made.available_bytes
    if needed <= available:
        return None
    return f"calibrating it needs {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are available"


def _loss_by_layers(made: Conversion, exported: dict[str, Product], part: str) -> dict[str, float]:
    """Loss by layers as of Choice; empty if measuring would take too long."""
    xml = VISION_XML if part == "vision" else LANGUAGE_XML

    def make(folder: Path) -> None:
        prompts = made.prompts()
        made.on_stage(f"measuring the layers of the {IN_WORDS[part]}")
        exact = {name: product.folder / name for name, product in exported.items()}
        reference = Reference(made.checkpoint, made.processing)
        comparison = Comparison(reference, exact, made.layers_at_once)
        try:
            comparison.compare(tuple(held_out_samples()), {}, DECIDING_S, every_sample=True)
            found = loss_by_layers(exact[xml], made.settings, prompts, comparison, save, folder)
        except (TooSlowError, UnquantizableError):
            found = {}
        (folder / LOSSES_JSON).write_text(json.dumps(found))

    inputs = {
        "exported": {name: product.key for name, product in exported.items()},
        "asked": made.asked_about,
    }
    product = made.work.product(f"layers-{part}", inputs, make)
    losses: dict[str, float] = json.loads((product.folder / LOSSES_JSON).read_text())
    return losses


def read_verification(folder: Path) -> Verification:
    return Verification.model_validate_json((folder / VERIFICATION_JSON).read_bytes())


def _require_time(counts: ParameterCounts, prompts: Sequence[Prompt]) -> None:
    """Raise UnquantizableError if calibrating the language model would take longer than CALIBRATING_S."""
    seconds = calibrating_s(counts, sum(len(prompt.inputs_embeds) for prompt in prompts))
    if seconds > CALIBRATING_S:
        raise UnquantizableError(
            f"calibrating it would take about {seconds / 60:.0f} minutes here, and at most "
            f"{CALIBRATING_S / 60:.0f} are allowed"
        )


def _notes(source: Source, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Where a worker deviates from the checkpoint's files, as sentences."""
    said = ", ".join(f"{name} {value}" for name, value in sampling_defaults(source.folder).items())
    text = checkpoint.config.text_config
    context, window = text.max_position_embeddings, context_tokens(text)
    notes = []
    if said:
        notes.append(f"A worker generates as each job asks, and not with {said}.")
    if window < context:
        notes.append(f"A sliding window caps the context to {window} of {context} tokens.")
    return tuple(notes)


def convert(
    source: str,
    out: Path,
    settings: PrepSettings,
    *,
    name: str | None = None,
    revision: str | None = None,
    calibration: str | None = None,
    overwrite: bool = False,
    stop_after: Step | None = None,
    reading: Reading = AS_IT_SAYS,
    on_stage: Callable[[str], None] = lambda _stage: None,
    on_bytes: Callable[[int, int], None] = lambda _done, _total: None,
    on_compared: Callable[[int, int], None] = lambda _done, _total: None,
    memory_bytes: int | None = None,
) -> FolderManifest | None:
    """Convert the checkpoint `source`, a folder or hub id, into the model folder `out`.

    `name` is the name in the model id, by default the source's. `calibration` is a source for
    model_prep.builtin.calibration_samples. With `stop_after` it ends after that step and returns None.
    `reading` is what the checkpoint's files do not say. `memory_bytes` limits the memory for verifying, by
    default to what is available. `on_stage` gets the name of each stage, at most STAGE_COUNT; `on_bytes` the
    downloaded and all bytes of the weights; `on_compared` the finished and all work of verifying.

    Raises ConversionError. Whatever is raised, `out` is unchanged, and finished parts are kept beside it for
    the next call.
    """
    on_stage("checking checkpoint, disk and memory")
    require_place(out, overwrite=overwrite)
    if settings.openvino_tokenizer:
        require_openvino_tokenizers()
    found = find_source(source, revision)
    chosen = _model_name(name or found.name.replace("/", "--"))
    checkpoint = open_checkpoint(str(found.folder), reading)
    if settings.within_bounds and calibration is None:
        calibration = BUILTIN
    if settings.needs_calibration and calibration is None:
        raise ConversionError(
            "These settings calibrate on images; --calibration names a folder or a manifest of them, and "
            "`--calibration builtin` takes those that ship."
        )
    _require_room(out, checkpoint, settings)
    processing = load_processing(checkpoint, reading.chat_template)
    ends = end_token_ids(found.folder, checkpoint.config, processing.processor.tokenizer)
    samples = calibration_samples(calibration, settings.samples) if calibration is not None else NO_SAMPLES
    if stop_after == "check":
        return None
    remote = [one for one in (found, *checkpoint.tower_sources) if one.revision is not None]
    if remote:
        on_stage("downloading the weights")
        for one in remote:
            fetch_weights(one, on_bytes)
        _require_room(out, checkpoint, settings)
    with opened(work_path(out)) as work:
        conversion = Conversion(
            source=found,
            checkpoint=checkpoint,
            processing=processing,
            ends=ends,
            settings=settings,
            samples=samples,
            calibration_key=_key_of(samples),
            work=work,
            on_stage=on_stage,
            on_compared=on_compared,
            memory_bytes=memory_bytes,
        )
        products = conversion.products(stop_after)
        if products is None:
            return None
        manifest = _publish(conversion, out, chosen, products, reading)
    shutil.rmtree(work_path(out))
    return manifest


def _publish(
    made: Conversion, out: Path, name: str, products: list[Product], reading: Reading
) -> FolderManifest:
    """Publish the products as the folder `out`."""
    made.on_stage("publishing")
    return publish(
        out,
        [product.folder for product in products],
        lambda files, digest: FolderManifest(
            model=f"{name}-{made.settings.format_name}-{digest}",
            source=made.source.name,
            revision=made.source.revision,
            packing=made.checkpoint.packing,
            marks=made.processing.marks,
            weight_format=made.settings.language.weight_format,
            vision_format=made.settings.vision.vision_format,
            settings=made.settings.model_dump() | reading.recorded,
            properties=made.settings.properties,
            made_with=made_with(),
            files=files,
        ),
    )


def _model_name(name: str) -> str:
    """`name` itself. Raises ConversionError if a model id cannot contain it."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConversionError(
            f"The name {name!r} may have only letters, digits and ._-; --name sets another."
        )
    return name


def made_with() -> dict[str, str]:
    """Package → version, for the packages that determine what is written."""
    return {package: version(package) for package in MADE_WITH}


def save(model: openvino.Model, xml: Path) -> None:
    """Write a part and read it again, as a full disk is not always reported. Raises ConversionError."""
    name_by_place(model)
    try:
        openvino.save_model(model, xml, compress_to_fp16=False)
        openvino.Core().read_model(xml)
    except RuntimeError as error:
        free = shutil.disk_usage(xml.parent).free
        raise ConversionError(
            f"{xml.name} cannot be written whole; {free / 1e9:.1f} GB of disk space are free."
        ) from error


def _wanted(changed: dict[str, Path]) -> dict[str, dict[str, Path]]:
    """Name → the changed files, for each part whose loss is measured."""
    parts = {
        "vision": {VISION_XML: changed[VISION_XML]} if VISION_XML in changed else {},
        "language": {xml: path for xml, path in changed.items() if xml != VISION_XML},
        "whole": changed if VISION_XML in changed and len(changed) > 1 else {},
    }
    return {name: files for name, files in parts.items() if files}


def _require_room(out: Path, checkpoint: Checkpoint, settings: PrepSettings) -> None:
    """Raise ConversionError unless there is enough disk space and memory."""
    counts = checkpoint.parameters
    per_weight = bytes_per_weight(settings.language)
    compressed = (counts.language + counts.embeddings) * per_weight
    compressed += counts.vision * BYTES_PER_WEIGHT[settings.vision.vision_format]
    stored = sum(path.stat().st_size for folder in checkpoint.folders for path in weight_files(folder))
    at_work = sum(path.stat().st_size for path in work_path(out).rglob("*") if path.is_file())
    require_disk(out, max(0, round(stored + compressed) - at_work))
    # The preset auto leaves in 16 bits what memory does not allow to calibrate.
    calibrating = 0 if settings.within_bounds else calibrating_bytes(counts, "vision")
    require_memory(round(max(counts.language * per_weight, calibrating)))


def _stamps(folder: Path, *patterns: str) -> dict[str, list[int]]:
    """File name → [size in bytes, time of change in ns]."""
    files = (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file())
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


@contextmanager
def _timed(folder: Path) -> Iterator[None]:
    """Write into `folder` the seconds that the block took."""
    begun = time.perf_counter()
    yield
    (folder / SECONDS_FILE).write_text(f"{time.perf_counter() - begun:.3f}")


def _weights(xml: Path) -> Path:
    return xml.with_suffix(".bin")


def _key_of(samples: Samples) -> str | None:
    if not samples.samples:
        return None
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.image.size} {sample.text}".encode())
        digest.update(sample.image.tobytes())
    return digest.hexdigest()


def _write_config(model: Any, folder: Path) -> None:
    """Write the checkpoint's config, with its image_newline, if any, as a list of numbers."""
    config = model.config.to_dict()
    # A path on this machine.
    config.pop("_name_or_path", None)
    newline = getattr(model.model, "image_newline", None)
    if newline is not None:
        config["image_newline"] = newline.float().tolist()
    (folder / CONFIG_JSON).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
