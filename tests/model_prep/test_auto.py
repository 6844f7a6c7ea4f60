"""The preset auto, through the real command: 8 bits where they lose little, else 16, and a record of why."""

from pathlib import Path

import openvino
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from contract.model_folder import LANGUAGE_XML, MANIFEST_JSON, TEXT_XML, VISION_XML, FolderManifest
from model_prep.command import app
from model_prep.convert import convert as model_prep_convert
from model_prep.deciding import groups_of
from model_prep.layer_names import OUTSIDE, PRODUCTS, in_words, layer_of
from model_prep.pictures import drawn_samples
from model_prep.settings import PRESETS
from model_prep.verified import BOUNDS, VERIFICATION_JSON, VERIFICATION_MD, Verification
from tests.support.checkpoints import make_tiny_checkpoint
from tests.support.model_caches import DEMO_CHECKPOINT, Cache

PARTS = {"vision": VISION_XML, "language": LANGUAGE_XML}
EIGHT_BITS = {"i8", "u8"}


def convert(source: Path, out: Path, *options: str) -> str:
    """Convert with the preset auto → what is said on stderr, on one line."""
    arguments = ["convert", str(source), "--out", str(out), "--preset", "auto", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stderr.split())


def record(out: Path) -> Verification:
    return Verification.model_validate_json((out / VERIFICATION_JSON).read_bytes())


def manifest(out: Path) -> FolderManifest:
    return FolderManifest.model_validate_json((out / MANIFEST_JSON).read_bytes())


def layers_in_8_bits(xml: Path) -> set[str]:
    """Layers with a product whose weights are 8-bit constants."""
    nodes = openvino.Core().read_model(xml).get_ops()
    products = [node for node in nodes if node.get_type_name() in PRODUCTS]
    return {layer_of(node.get_friendly_name()) for node in products if weight_type(node) in EIGHT_BITS}


def weight_type(node: openvino.Node) -> str:
    """The element type of the constant at the beginning of a product's second input."""
    weights = node.input_value(1).get_node()
    while weights.get_input_size():
        weights = weights.input_value(0).get_node()
    return str(weights.get_element_type().get_type_name())


def assert_consistent(out: Path, said: str) -> None:
    """Each part is published as its figures demand, and the output, the record and the page say so."""
    found, published = record(out), manifest(out)
    assert found.bounds == BOUNDS
    formats = {"vision": published.vision_format, "language": published.weight_format}
    assert set(found.choices) == set(PARTS)
    for part, choice in found.choices.items():
        assert choice.format == formats[part]
        last = choice.tries[-1]
        assert BOUNDS.hold(last.token_agreement, last.logit_kl) == (choice.format == "int8")
        assert choice.why in said
        assert choice.why in (out / VERIFICATION_MD).read_text()
        in_8_bits = layers_in_8_bits(out / PARTS[part])
        assert not in_8_bits & set(choice.kept_layers)
        assert bool(in_8_bits) == (choice.format == "int8")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo model's folder, and what the command said."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, convert(DEMO_CHECKPOINT, out)


@pytest.fixture(scope="module")
def unsure(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model whose tokens change with the smallest loss, as its layers hardly tell them apart."""
    place = tmp_path_factory.mktemp("unsure")
    checkpoint = make_tiny_checkpoint(place / "checkpoint")
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight *= 0.01
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    (place / "pictures").mkdir()
    for number, sample in enumerate(drawn_samples()):
        sample.image.save(place / "pictures" / f"{number}.png")
    own = ("--calibration", str(place / "pictures"), "--samples", "3")
    return place / "out", convert(checkpoint, place / "out", *own)


@pytest.mark.soak
def test_the_demo_model_is_published_in_8_bits(demo: tuple[Path, str]) -> None:
    out, said = demo
    assert_consistent(out, said)
    found = record(out)
    assert {choice.format for choice in found.choices.values()} == {"int8"}
    assert manifest(out).model.startswith("checkpoint-int8-")
    assert found.parity is not None
    assert found.parity.images == 8
    assert found.calibration_images == 20


def test_a_part_beyond_its_bounds_is_published_in_16_bits(unsure: tuple[Path, str]) -> None:
    out, said = unsure
    assert_consistent(out, said)
    language = record(out).choices["language"]
    assert language.format == "fp16"
    assert "The language model is in 16 bits, because 8 bits lose too much" in said


def test_layers_that_lose_most_are_kept_first(unsure: tuple[Path, str]) -> None:
    for choice in record(unsure[0]).choices.values():
        worst = sorted(choice.loss_by_layers, key=lambda group: -choice.loss_by_layers[group])
        for number, tried in enumerate(choice.tries):
            assert tried.kept_layers == (tuple(worst[0].split()) if number else ())
    assert len(record(unsure[0]).choices["language"].tries) == 2


def test_own_pictures_replace_the_built_in_ones(unsure: tuple[Path, str]) -> None:
    found = record(unsure[0])
    assert found.calibration_images == 3
    assert found.parity is not None
    assert found.parity.images == 8


def test_with_short_memory_parts_stay_in_16_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = model_prep_convert(str(tiny_checkpoint), out, PRESETS["auto"], memory_bytes=1)
    assert made is not None
    assert (made.weight_format, made.vision_format) == ("fp16", "fp16")
    for choice in record(out).choices.values():
        assert "because calibrating it needs 0.0 GB of memory and 0.0 GB are available" in choice.why
        assert choice.why in (out / VERIFICATION_MD).read_text()


def test_a_language_model_that_takes_too_long_stays_in_16_bits_with_its_embeddings(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out when the embeddings are compressed already."""
    monkeypatch.setattr("model_prep.convert.CALIBRATING_S", 0.0)
    out = tmp_path / "out"
    said = convert(tiny_checkpoint, out, "--vision-format", "fp16")
    assert "The language model is in 16 bits, because calibrating it would take about 0 minutes here" in said
    assert manifest(out).weight_format == "fp16"
    nodes = openvino.Core().read_model(out / TEXT_XML).get_ops()
    constants = [node.get_element_type() for node in nodes if node.get_type_name() == "Constant"]
    assert not {str(kind.get_type_name()) for kind in constants} & EIGHT_BITS


def test_without_verification_nothing_is_decided(tiny_checkpoint: Path, tmp_path: Path) -> None:
    said = convert(tiny_checkpoint, tmp_path / "out", "--verify", "none")
    assert manifest(tmp_path / "out").weight_format == "fp16"
    assert "The vision tower is in 16 bits, because --verify none compares nothing to decide by." in said


def test_layers_are_found_by_name() -> None:
    assert layer_of("__module.decoder.layers.13.mlp.down_proj/ov_ext::linear/MatMul") == "13"
    assert layer_of("__module.tower.blocks.2/aten::add/Add") == "2"
    assert layer_of("__module.lm_head/ov_ext::linear/MatMul") == OUTSIDE
    assert in_words(("1", "2", OUTSIDE)) == "layers 1, 2 and what is outside the layers"
    groups = groups_of([*map(str, range(24)), OUTSIDE])
    assert groups[0] == ("0", "1", "2")
    assert (len(groups), groups[-1]) == (9, (OUTSIDE,))


def test_a_kept_model_tells_what_was_decided(tiny_checkpoint: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", {})
    said = cache.convert(tiny_checkpoint, "--preset", "auto", "--verify", "none").stderr
    assert "The language model is in 16 bits, because --verify none compares nothing to decide by." in said
