"""What a checkpoint does not say is found, given or refused before anything is exported."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentencepiece import SentencePieceTrainer

from contract.installing import install_line
from model_prep.chat_template import encode
from model_prep.checkpoint import load_model, open_checkpoint
from model_prep.conversations import CONVERSATIONS, proposed
from model_prep.families import DO_NOT_FIT, FAMILIES
from model_prep.generation import end_token_ids
from model_prep.processor import load_processing
from model_prep.reading import Reading
from model_prep.refusal import ConversionError
from tests.model_prep.layouts.edits import (
    KEYS_2023,
    Edit,
    change,
    old_processor,
    renamed,
    sharded,
    template_in,
    text_template,
    without,
)
from tests.model_prep.layouts.models import LANGUAGES, Model, make_twin
from tests.model_prep.layouts.table import LAYOUTS, LLAMA_3_OWN, LLAVA_1_5, MISTRAL_OWN, VICUNA
from tests.model_prep.layouts.tokenizers import (
    CHATML,
    GEMMA,
    GRANITE,
    LLAMA,
    LLAMA_3,
    PHI_3,
    Tokens,
    make_bpe,
)
from tests.support.hub import COMMIT, HUB_ID, served
from tests.support.processes import ROOT


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA-1.5 as transformers writes it today."""
    return make_twin(tmp_path_factory.mktemp("reading") / "whole", Model(), VICUNA)


@pytest.fixture
def edited(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of it after some edits."""

    def edit(*edits: Edit) -> Path:
        copy = shutil.copytree(whole, tmp_path / "checkpoint")
        for one in edits:
            one(copy)
        return copy

    return edit


def template_of(checkpoint: Path, given: str | None = None) -> str:
    """The chat template, which is the tokenizer's as well: some read it from there."""
    processing = load_processing(open_checkpoint(str(checkpoint)), given)
    assert processing.processor.tokenizer.chat_template == processing.template.text
    return processing.template.text


NEITHER = "{% for message in messages %}{{ message['role'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ((template_in("nowhere"),), ("has no chat template; --chat-template vicuna_v1",)),
        (
            (template_in("nowhere"), text_template(MISTRAL_OWN)),
            ("has a chat template for text alone", "--chat-template vicuna_v1"),
        ),
        ((template_in("nowhere"), text_template(NEITHER)), ("does not render a question about an image",)),
        (
            (template_in("nowhere"), text_template("{{ messages[0]['content'] }} <image> <image>")),
            ("does not render a question about an image with one <image>",),
        ),
    ],
    ids=["none", "text alone", "drops the text", "two images"],
)
def test_a_checkpoint_without_a_template_for_images_is_refused(
    edited: Callable[..., Path], edits: tuple[Edit, ...], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConversionError) as refused:
        template_of(edited(*edits))
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json"])
def test_a_template_counts_wherever_it_stands(edited: Callable[..., Path], place: str) -> None:
    assert template_of(edited(template_in(place))) == VICUNA


def test_of_several_templates_the_default_counts(edited: Callable[..., Path]) -> None:
    named = [{"name": "tool_use", "template": NEITHER}, {"name": "default", "template": VICUNA}]
    checkpoint = edited(template_in("nowhere"), change("tokenizer_config.json", chat_template=named))
    assert template_of(checkpoint) == VICUNA


def test_a_template_for_text_alone_does_not_hide_the_right_one(edited: Callable[..., Path]) -> None:
    assert template_of(edited(text_template(LLAMA_3_OWN))) == VICUNA


def test_a_given_template_goes_before_the_checkpoints_own(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(LLAVA_1_5)
    assert template_of(whole, str(tmp_path / "own.jinja")) == LLAVA_1_5
    assert template_of(whole, "llava_1_5") == LLAVA_1_5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("vicuna", "is no file that can be read and no conversation; conversations are vicuna_v1"),
        ("own.jinja", "own"),
    ],
)
def test_a_given_template_that_is_none_is_refused(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jinja").write_text(MISTRAL_OWN)
    with pytest.raises(ConversionError, match=words):
        template_of(whole, given)


CURIOUS = (
    "A chat between a curious {} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {}'s questions."
)
CURIOUS_USER, CURIOUS_HUMAN = CURIOUS.format("user", "user"), CURIOUS.format("human", "human")
LLAMA_3_ASKED = (
    "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML_ASKED = "<|im_start|>user\n<image>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
ASKED = {
    "vicuna_v1": f"{CURIOUS_USER} USER: <image>\nWhy? ASSISTANT:",
    "llava_1_5": "USER: <image>\nWhy? ASSISTANT:",
    "vip_vicuna": f"{CURIOUS_HUMAN}###Human: <image>\nWhy?###Assistant:",
    "mistral_instruct": "[INST] <image>\nWhy? [/INST]",
    "llama_3": LLAMA_3_ASKED,
    "llava_llama_3": "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision "
    "assistant. You are able to understand the visual content that the user provides, and assist the user "
    f"with a variety of tasks using natural language.<|eot_id|>{LLAMA_3_ASKED}",
    "chatml": CHATML_ASKED,
    "qwen": f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{CHATML_ASKED}",
    "phi_3": "<|user|>\n<image>\nWhy?<|end|>\n<|assistant|>\n",
    "gemma": "<start_of_turn>user\n<image>\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "granite": f"<|system|>\n{CURIOUS_USER}\n<|user|>\n<image>\nWhy?\n<|assistant|>\n",
}
"""What LLaVA's own code makes of a question, by the name of its conversation."""


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_named_conversation_is_the_published_prompt(name: str) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Why?"}]
    said = make_bpe(LLAMA).apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=CONVERSATIONS[name].template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert said == ASKED[name]


@pytest.mark.parametrize(
    ("family", "language", "tokens", "name"),
    [
        ("llava", "llama", LLAMA, "vicuna_v1"),
        ("llava_next", "llama", CHATML, "chatml"),
        ("llava", "llama", LLAMA_3, "llama_3"),
        ("llava_next", "mistral", LLAMA, "mistral_instruct"),
        ("llava", "phi3", PHI_3, "phi_3"),
        ("llava", "gemma", GEMMA, "gemma"),
        ("llava_next", "granite", GRANITE, "granite"),
        ("vipllava", "llama", LLAMA, "vip_vicuna"),
        ("llava_onevision", "qwen2", CHATML, "qwen"),
        ("llava", "qwen3", GRANITE, None),
    ],
)
def test_a_conversation_is_proposed_where_the_parts_leave_one(
    family: str, language: str, tokens: Tokens, name: str | None
) -> None:
    config = FAMILIES[family].config(text_config=LANGUAGES[language]())
    assert proposed(FAMILIES[family], config, make_bpe(tokens)) == name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "for bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq"}, "_name_or_path": "a/b"}, "for gptq.*convert a/b"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "for awq"),
        ({"quantization_config": {}}, "for another engine"),
    ],
    ids=["bitsandbytes", "gptq with its source", "awq in the language model", "unnamed"],
)
def test_weights_quantized_for_another_engine_are_refused_by_name(
    edited: Callable[..., Path], values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConversionError, match=words):
        open_checkpoint(str(edited(change("config.json", **values), without("model.safetensors"))))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("processor_config.json", image_processor={"crop_size": {"height": 28, "width": 28}}), "28"),
        (change("config.json", image_token_index=400), "image token is number 400; its tokenizer has"),
        (change("config.json", image_token_index=-1), "image token is number -1"),
    ],
    ids=["tile", "image token", "no image token"],
)
def test_parts_that_do_not_fit_are_refused_before_the_export(
    edited: Callable[..., Path], edit: Edit, words: str
) -> None:
    with pytest.raises(ConversionError, match=words):
        template_of(edited(edit))


def test_one_beginning_of_sequence_token_whoever_writes_it(tmp_path: Path) -> None:
    """Llama 3's template writes one, and its tokenizer puts one before a text, too."""
    twin, _ = LAYOUTS["llava-hf/llama3-llava-next-8b-hf"].make(tmp_path)
    processing = load_processing(open_checkpoint(str(twin)))
    tokenizer = processing.processor.tokenizer
    text = processing.template.ask(tokenizer, "Why?")
    begin = tokenizer.bos_token_id
    assert text.startswith(tokenizer.bos_token)
    assert tokenizer(text)["input_ids"][:2] == [begin, begin], "a tokenizer that adds none shows nothing"
    assert encode(tokenizer, text)[:2].count(begin) == 1
    found = processing.inputs(Image.new("RGB", (60, 60)), "Why?")["input_ids"][0].tolist()
    assert found.count(begin) == 1


@pytest.mark.parametrize(
    ("generation", "text", "expected"),
    [
        ({"eos_token_id": [2, 9]}, 5, [2, 9]),
        ({"temperature": 0.2}, 5, 5),
        (None, [2, 7], [2, 7]),
        (None, None, 2),
        ({"eos_token_id": "</s>"}, 5, "eos_token_id of"),
        ({"eos_token_id": 99999}, 5, "eos_token_id of"),
    ],
    ids=["its own", "the language model's", "several", "the tokenizer's", "a text", "beyond the vocabulary"],
)
def test_the_end_is_found_or_refused(
    edited: Callable[..., Path], generation: dict[str, Any] | None, text: Any, expected: Any
) -> None:
    checkpoint = edited(without("generation_config.json"))
    if generation is not None:
        change("generation_config.json", **generation)(checkpoint)
    config = open_checkpoint(str(checkpoint)).config
    config.text_config.eos_token_id = text
    if isinstance(expected, str):
        with pytest.raises(ConversionError, match=expected):
            end_token_ids(checkpoint, config, make_bpe(LLAMA))
    else:
        assert end_token_ids(checkpoint, config, make_bpe(LLAMA)) == expected


class Payload:
    """What a pickle may hold beside tensors."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_code_in_a_pickle_is_refused_and_not_run(
    edited: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = edited(renamed(KEYS_2023), sharded(1, pickled=True))
    weights = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    load_model(open_checkpoint(str(checkpoint)))
    torch.save(weights | {"more": Payload()}, checkpoint / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match=r"weights of .* cannot be read"):
        load_model(open_checkpoint(str(checkpoint)))
    assert not (tmp_path / "ran").exists()


FIND = f"""
from model_prep.source import fetch_weights, find_source
found = find_source({HUB_ID!r}, None)
fetch_weights(found)
print(found.name, found.revision, *sorted(path.name for path in found.folder.iterdir()))
"""


@pytest.mark.parametrize("pickled", [True, False], ids=["a pickle alone", "safetensors beside a pickle"])
def test_a_pickle_is_downloaded_where_there_is_nothing_else(
    edited: Callable[..., Path], tmp_path: Path, pickled: bool
) -> None:
    repository = edited(sharded(2, pickled=pickled))
    (repository / "training_args.bin").write_bytes(b"code")
    if not pickled:
        (repository / "pytorch_model.bin").write_bytes(b"the same again")
    with served(repository, tmp_path / "cache") as (variables, downloaded):
        environment = os.environ | variables
        ran = subprocess.run(
            [sys.executable, "-c", FIND],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    name, revision, *files = ran.stdout.split()
    assert (name, revision) == (HUB_ID, COMMIT)
    weights = [file for file in files if file.endswith((".bin", ".safetensors"))]
    stem = "pytorch_model-0000{}-of-00002.bin" if pickled else "model-0000{}-of-00002.safetensors"
    assert weights == [stem.format(1), stem.format(2)]
    assert len(downloaded) == len(set(downloaded)), "nothing is downloaded twice"


@pytest.fixture(scope="module")
def sentencepiece_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    _, checkpoint = LAYOUTS["SpursgoZmy/table-llava-v1.5-7b-hf"].make(tmp_path_factory.mktemp("pieces"))
    return checkpoint


@pytest.mark.parametrize("package", ["sentencepiece", "google.protobuf"])
def test_what_reads_a_tokenizer_model_is_named(
    sentencepiece_alone: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConversionError, match=r"tokenizer.model and no tokenizer.json") as refusal:
        template_of(sentencepiece_alone, "vicuna_v1")
    assert install_line("prep") in str(refusal.value)


def test_a_tokenizer_model_that_does_not_convert_exactly_is_refused(
    sentencepiece_alone: Path, tmp_path: Path
) -> None:
    """SentencePiece folds spaces here, which transformers' conversion of Llama's does not."""
    copy = shutil.copytree(sentencepiece_alone, tmp_path / "folding")
    (tmp_path / "texts").write_text("What is shown in this image?\nHow many red circles are there?\n" * 20)
    SentencePieceTrainer.train(
        input=str(tmp_path / "texts"),
        model_prefix=str(copy / "tokenizer"),
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(
        ConversionError, match=r"cannot be converted without loss: of '.*' it makes other tokens"
    ):
        template_of(copy, "vicuna_v1")


def test_an_untested_language_model_is_taken_when_asked(edited: Callable[..., Path]) -> None:
    checkpoint = edited(change("config.json", text_config={"model_type": "olmo"}))
    with pytest.raises(ConversionError, match=r"'olmo' is not supported.*--allow-untested"):
        open_checkpoint(str(checkpoint))
    found = open_checkpoint(str(checkpoint), Reading(allow_untested=True))
    assert found.config.text_config.model_type == "olmo"


@pytest.mark.parametrize("family", DO_NOT_FIT)
def test_a_family_that_does_not_fit_is_refused_by_name_with_the_reason(
    edited: Callable[..., Path], family: str
) -> None:
    checkpoint = edited(change("config.json", model_type=family))
    with pytest.raises(ConversionError) as refusal:
        open_checkpoint(str(checkpoint))
    assert str(refusal.value) == f"The architecture {family!r} is not supported: {DO_NOT_FIT[family]}."
    assert f"`{family}`" in (ROOT / "docs" / "model_prep.md").read_text(encoding="utf-8")


def test_a_tower_is_asked_for_in_llavas_own_layout_alone(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="--vision-tower decides nothing"):
        open_checkpoint(str(whole), Reading(vision_tower=str(whole)))
    _, checkpoint = LAYOUTS["liuhaotian/llava-v1.6-mistral-7b"].make(tmp_path)
    shutil.move(tmp_path / "tower", tmp_path / "elsewhere")
    with pytest.raises(ConversionError, match="--vision-tower gives its folder or hub id"):
        open_checkpoint(str(checkpoint))
    found = open_checkpoint(str(checkpoint), Reading(vision_tower=str(tmp_path / "elsewhere")))
    assert found.family.packing == "anyres"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("mm_projector_type", "linear", "projector 'linear' .* supported: mlp2x_gelu"),
        ("mm_use_im_start_end", True, "mm_use_im_start_end"),
        ("mm_resampler_type", "qformer", "mm_resampler_type 'qformer'"),
        ("mm_patch_merge_type", "flat", "mm_patch_merge_type 'flat'"),
        ("image_grid_pinpoints", "(1x1)", "image_grid_pinpoints"),
        ("architectures", ["LlavaMptForCausalLM"], "'LlavaMptForCausalLM'"),
    ],
)
def test_what_llavas_own_layout_has_beyond_transformers_is_refused(
    tmp_path: Path, field: str, value: Any, words: str
) -> None:
    _, checkpoint = LAYOUTS["liuhaotian/llava-v1.6-mistral-7b"].make(tmp_path)
    change("config.json", **{field: value})(checkpoint)
    with pytest.raises(ConversionError, match=words):
        open_checkpoint(str(checkpoint))


def test_of_llavas_own_layout_nothing_is_taken_that_is_not_the_models(tmp_path: Path) -> None:
    """Neither its own fields, among them where the tower lies, nor the text model beside the tower."""
    _, checkpoint = LAYOUTS["liuhaotian/llava-v1.5-7b"].make(tmp_path)
    opened = open_checkpoint(str(checkpoint))
    assert opened.original is not None
    assert not [field for field in opened.raw["text_config"] if field.startswith("mm_")]
    assert not [name for name in opened.original.state_dict() if "text_model" in name]


@pytest.mark.parametrize(
    ("row", "file", "field", "value"),
    [
        ("OpenGVLab/InternVL3-1B-hf", "processor_config.json", "image_seq_length", 4),
        ("HuggingFaceM4/Idefics3-8B-Llama3", "processor_config.json", "image_seq_len", 4),
        (
            "mistral-community/pixtral-12b",
            "preprocessor_config.json",
            "patch_size",
            {"height": 14, "width": 14},
        ),
    ],
)
def test_what_a_processor_lacks_is_the_configs(
    tmp_path: Path, row: str, file: str, field: str, value: Any
) -> None:
    _, checkpoint = LAYOUTS[row].make(tmp_path)
    change(file, **{field: ...})(checkpoint)
    processor = load_processing(open_checkpoint(str(checkpoint))).processor
    part = processor if file == "processor_config.json" else processor.image_processor
    assert getattr(part, field) == value


def test_an_old_processor_is_completed_from_the_config(edited: Callable[..., Path]) -> None:
    processor = load_processing(open_checkpoint(str(edited(old_processor())))).processor
    assert (processor.patch_size, processor.num_additional_image_tokens) == (14, 1)
    assert processor.vision_feature_select_strategy == "default"
