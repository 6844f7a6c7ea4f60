"""Compares prompts with the chat template, refuses hidden control tokens, checks tiles' grids; no model."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from contract.failure import FailureCode, Refusal
from contract.job import Detail, ImagePart, Question, TextPart, Turn
from contract.model_folder import TileMarks
from tests.model_prep.layouts.table import IDEFICS3_OWN
from tests.model_prep.layouts.tokenizers import SMOLVLM, make_bpe
from tests.support.checkpoints import (
    CHAT_TEMPLATE,
    OTHER_CHAT_TEMPLATE,
    OTHER_PATCH_PX,
    OTHER_PINPOINTS,
    OTHER_TILE_PX,
    make_processor,
    make_tokenizer,
)
from tests.support.processes import ROOT
from worker.llava.image_run import PlainRun, RowRun, place_runs
from worker.llava.model import LlavaModel
from worker.llava.prompt import PromptWriter
from worker.llava.tiles import NO_GRID, AnyresTiler, CanvasTiler, SplitTiler, Tiler

IMAGE_TOKEN_ID = 3
LLAVA_MISTRAL_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'][0]['text'] + '</s> ' }}"
    "{% endif %}{% endfor %}"
)
"""The shape of published LLaVA-NeXT templates: content is a list of parts, and a string is dropped."""
CONVERSATION = (
    Turn(role="system", content="Answer in one word."),
    Turn(role="user", content=(ImagePart(), TextPart(text="Which shape?"))),
    Turn(role="assistant", content="Circle."),
    Turn(role="user", content="Which colour?"),
)


def writer(template: str = CHAT_TEMPLATE) -> PromptWriter:
    return PromptWriter(make_tokenizer(), template, IMAGE_TOKEN_ID)


def text_of(token_ids: np.ndarray) -> str:
    text: str = make_tokenizer().decode(token_ids)
    return text


def ask(messages: tuple[Turn, ...] | str, template: str = CHAT_TEMPLATE, *, with_image: bool = True) -> str:
    question = Question(id="q", messages=messages)
    return text_of(writer(template).token_ids(question, with_image=with_image))


def assert_refused(messages: tuple[Turn, ...] | str, words: str, template: str = CHAT_TEMPLATE) -> None:
    with pytest.raises(Refusal, match=words) as refused:
        ask(messages, template)
    assert refused.value.failure.code == FailureCode.QUESTION_REFUSED


def test_the_short_form_is_one_user_turn_with_the_image_first() -> None:
    assert ask("Which shape?") == "<s>[INST] <image>\nWhich shape? [/INST]"
    assert ask("Which shape?", with_image=False) == "<s>[INST] Which shape? [/INST]"


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHAT_TEMPLATE, "</s>"), (LLAVA_MISTRAL_TEMPLATE, "</s> ")],
    ids=["tiny", "published"],
)
def test_every_turn_reaches_the_prompt(template: str, end: str) -> None:
    expected = (
        "<s><<SYS>>\nAnswer in one word.\n<</SYS>>\n\n[INST] <image>\nWhich shape? [/INST] Circle."
        f"{end}[INST] Which colour? [/INST]"
    )
    assert ask(CONVERSATION, template) == expected


def test_a_template_that_begins_the_text_itself_gets_no_second_beginning() -> None:
    assert ask("Which shape?", "{{ bos_token }}" + CHAT_TEMPLATE) == "<s>[INST] <image>\nWhich shape? [/INST]"


@pytest.mark.parametrize("token", ["<image>", "</s>", "<s>", "<pad>"])
def test_a_text_that_spells_a_control_token_is_refused(token: str) -> None:
    assert_refused(f"What does {token} mean?", f"contains '{token}'")
    spoken = (Turn(role="system", content=token), Turn(role="user", content="Why?"))
    assert_refused(spoken, f"a system turn contains '{token}'")


def test_parts_that_spell_a_control_token_together_are_refused() -> None:
    parts = (TextPart(text="What is <im"), TextPart(text="age> here?"))
    assert_refused((Turn(role="user", content=parts),), "contains '<image>'")


def test_a_template_that_raises_is_a_refusal_in_its_own_words() -> None:
    template = "{{ raise_exception('Conversation roles must alternate') }}"
    assert_refused("Which shape?", "Conversation roles must alternate", template)
    assert_refused("Which shape?", "chat template refuses", "{{ messages[0]['content'] + 1 }}")


STRING_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{{ '<<SYS>>' + messages[0]['content'] }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}{{ '[' + message['role'] + '] ' }}"
    "{{ ('<image>\n' if loop.first else '') + message['content'] | trim + '</s>' }}{% endfor %}"
)
"""The shape of JoyCaption's: content is text, and the first user turn has the image wherever it stood."""


def test_a_template_that_takes_strings_is_given_strings() -> None:
    assert ask("Which shape?", STRING_TEMPLATE) == "<s>[user] <image>\nWhich shape?</s>"
    parts = (TextPart(text="Which"), ImagePart(), TextPart(text="shape?"))
    asked = (Turn(role="system", content="Be brief."), Turn(role="user", content=parts))
    assert ask(asked, STRING_TEMPLATE) == "<s><<SYS>>Be brief.[user] <image>\nWhich\nshape?</s>"


def test_a_template_that_writes_an_image_nobody_placed_is_a_refusal() -> None:
    with pytest.raises(Refusal, match="does not place"):
        ask("Which shape?", STRING_TEMPLATE, with_image=False)


def test_a_template_for_text_alone_prints_no_list() -> None:
    template = STRING_TEMPLATE.replace("<image>\n", "")
    assert ask("Which shape?", template, with_image=False) == "<s>[user] Which shape?</s>"
    assert_refused("Which shape?", "does not place", template)


def test_a_template_that_drops_a_turn_is_a_refusal() -> None:
    template = CHAT_TEMPLATE.replace(
        "{%- for message in messages %}", "{%- for message in messages[1:] %}", 1
    )
    assert_refused(CONVERSATION, "leaves out text of a system turn", template)


def test_a_template_that_drops_the_image_is_a_refusal() -> None:
    assert_refused("Which shape?", "does not place", CHAT_TEMPLATE.replace("<image>", "picture"))


CHOICES = ("yes", " no ", "I cannot tell")
CHATML = (
    "{% for message in messages %}{{ '<u>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}"
    "{% endfor %}{{ '<e>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<u>assistant\n' }}{% endif %}"
)


def choices_of(
    *choices: str, template: str = CHAT_TEMPLATE, eos: tuple[int, ...] = (2,), tokenizer: Any = None
) -> tuple[tuple[int, ...], ...]:
    question = Question(id="q", messages="Is it red?", choices=choices)
    writing = PromptWriter(tokenizer or make_tokenizer(), template, IMAGE_TOKEN_ID)
    return writing.choice_ids(question, eos, with_image=True)


@pytest.mark.parametrize(
    "template",
    [CHAT_TEMPLATE, LLAVA_MISTRAL_TEMPLATE, OTHER_CHAT_TEMPLATE],
    ids=["tiny", "published", "other"],
)
def test_a_choice_is_what_an_answer_in_the_template_is(template: str) -> None:
    found = choices_of(*CHOICES, template=template)
    assert [text_of(np.array(one)) for one in found] == [f" {text.strip()}</s>" for text in CHOICES]
    asked = Turn(role="user", content=(ImagePart(), TextPart(text="Is it red?")))
    told = Turn(role="user", content="Sure?")
    for choice, token_ids in zip(CHOICES, found, strict=True):
        prompt = writer(template).token_ids(Question(id="q", messages="Is it red?"), with_image=True).tolist()
        talk = Question(id="q", messages=(asked, Turn(role="assistant", content=choice.strip()), told))
        whole = writer(template).token_ids(talk, with_image=True).tolist()
        assert whole[: len(prompt) + len(token_ids)] == [*prompt, *token_ids]


def test_the_end_token_is_the_templates_own() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<u>", "<e>"]})
    end = tokenizer.convert_tokens_to_ids("<e>")
    for eos, expected in (((2, end), end), ((end, 2), end), ((2,), 2)):
        found = choices_of("yes", "no", template=CHATML, eos=eos, tokenizer=tokenizer)
        assert [(tokenizer.decode(one[:-1]), one[-1]) for one in found] == [
            ("yes", expected),
            ("no", expected),
        ]


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE.replace("{{ ' ' }}", "{{ raise_exception('no answers here') }}", 1),
        CHAT_TEMPLATE.replace("{{ ' ' }}", "{{ ' says: ' }}", 1),
        # The space that ends this prompt is one token with the word after it.
        OTHER_CHAT_TEMPLATE.replace("'ASSISTANT:'", "'ASSISTANT: '"),
    ],
    ids=["refused", "spoken for", "joined to the prompt"],
)
def test_where_the_template_does_not_go_on_the_bare_text_is_scored(template: str) -> None:
    found = choices_of("red", "blue", template=template)
    assert [text_of(np.array(one)) for one in found] == ["red</s>", "blue</s>"]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (("yes", "</s>"), "contains '</s>'"),
        (("yes", "a <image>"), "contains '<image>'"),
        (("\u0301e", "é"), "the same tokens"),
        (("☃", "yes"), "no tokens for the choice '☃'"),
        (("yes", "\u200b"), "no tokens for the choice"),
    ],
)
def test_impossible_choices_are_refused(choices: tuple[str, ...], words: str) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(), unk_token="<unk>", eos_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    with pytest.raises(Refusal, match=words) as refused:
        choices_of(*choices, tokenizer=tokenizer)
    assert refused.value.failure.code == FailureCode.QUESTION_REFUSED


def word_tokenizer() -> Tokenizer:
    """Of a few words, and blind to accents and to zero-width characters."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", "yes", "no", "a", "e", "INST"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Replace("\u200b", "")]
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return words


def test_the_image_token_is_repeated_in_its_place() -> None:
    token_ids = np.array([1, 9, 3, 8], dtype=np.int64)
    run = PlainRun(3)
    assert place_runs(token_ids, 3, [run(4, NO_GRID)]).tolist() == [1, 9, 3, 3, 3, 3, 8]
    assert place_runs(token_ids[2:], 3, [run(2, NO_GRID)]).tolist() == [3, 3, 8]
    assert place_runs(token_ids[:3], 3, [run(2, NO_GRID)]).tolist() == [1, 9, 3, 3]


def test_rows_of_an_image_end_in_marks() -> None:
    run = RowRun(3, break_id=5, end_id=6)(6, (3, 2))
    assert run.tolist() == [3, 3, 5, 3, 3, 5, 3, 3, 6]


@pytest.mark.parametrize(
    ("detail", "grids"),
    [
        ("low", {(0, 0)}),
        (1, {(1, 1)}),
        (2, {(1, 1), (1, 2), (2, 1)}),
        (5, {(1, 1), (1, 2), (2, 1), (2, 2)}),
        (6, {(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)}),
        ("high", {(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (2, 4)}),
    ],
)
def test_detail_caps_the_tiles(detail: Detail, grids: set[tuple[int, int]]) -> None:
    tiler = AnyresTiler(make_processor(OTHER_TILE_PX, OTHER_PATCH_PX, OTHER_PINPOINTS).image_processor)
    sizes = [(50, 50), (55, 110), (110, 55), (118, 118), (178, 118), (118, 236)]
    tiles = [tiler(Image.new("RGB", (width, height)), detail) for height, width in sizes]
    assert {one.grid for one in tiles} == grids
    assert all(len(one.pixel_values) == 1 + one.grid[0] * one.grid[1] for one in tiles)


@pytest.mark.parametrize(
    ("tiler", "grids"),
    [
        (
            CanvasTiler(GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, max_patches=6)),
            {
                "low": {(0, 0)},
                1: {(0, 0)},
                2: {(0, 0), (1, 2), (2, 1)},
                4: {(2, 2), (1, 3), (3, 1)},
                "high": {(2, 2), (1, 3), (3, 1)},
            },
        ),
        (
            SplitTiler(
                Idefics3ImageProcessorPil(size={"longest_edge": 168}, max_image_size={"longest_edge": 56})
            ),
            {
                "low": {(0, 0)},
                1: {(0, 0)},
                2: {(0, 0), (1, 2), (2, 1)},
                4: {(2, 2), (1, 3), (3, 1)},
                "high": {(3, 3), (1, 3), (3, 1)},
            },
        ),
    ],
    ids=["canvas", "split"],
)
def test_detail_caps_the_tiles_of_other_tilers(
    tiler: Tiler, grids: dict[Detail, set[tuple[int, int]]]
) -> None:
    for detail, expected in grids.items():
        tiles = [tiler(Image.new("RGB", size), detail) for size in ((100, 100), (150, 50), (50, 150))]
        assert {one.grid for one in tiles} == expected, detail
        for one in tiles:
            assert one.pixel_values.shape[1:] == (3, *(tiler.tile_px or ()))
            assert len(one.pixel_values) == 1 + one.grid[0] * one.grid[1]
    assert len({tiler.key(detail, True) for detail in grids}) >= 4


def test_no_text_spells_the_marks_between_tiles() -> None:
    tokenizer = make_bpe(SMOLVLM)
    tokenizer.add_tokens("<row_3_col_9>")
    marks = TileMarks(tile="<row_{row}_col_{column}>")
    question = Question(id="q", messages="What is in <row_3_col_9>?")
    assert PromptWriter(tokenizer, IDEFICS3_OWN, 4).token_ids(question, with_image=False).size
    with pytest.raises(Refusal, match="contains '<row_3_col_9>', a control token"):
        PromptWriter(tokenizer, IDEFICS3_OWN, 4, marks).token_ids(question, with_image=False)


def test_a_cap_below_every_pinpoint_leaves_the_base_tile() -> None:
    tiler = AnyresTiler(make_processor().image_processor)
    assert tiler(Image.new("RGB", (100, 100)), 1).pixel_values.shape == (1, 3, 56, 56)
    assert tiler.pinpoints(1) == tiler.pinpoints("low") == []


@pytest.mark.parametrize(
    ("size", "grid"), [((40, 150), (1, 3)), ((150, 40), (3, 1)), ((100, 100), (2, 2)), ((100, 170), (2, 3))]
)
def test_the_grid_is_height_before_width(size: tuple[int, int], grid: tuple[int, int]) -> None:
    tiles = AnyresTiler(make_processor().image_processor)(Image.new("RGB", (size[1], size[0])))
    assert (tiles.grid, tiles.image_size) == (grid, size)
    assert tiles.pixel_values.shape == (1 + grid[0] * grid[1], 3, 56, 56)


@pytest.mark.parametrize("text", ["word " * 300, "x" * 3000, "ä€\U0001f600" * 500, " \n\t" * 900, "a"])
def test_a_text_takes_no_fewer_tokens_than_its_characters_say(text: str) -> None:
    """Of the tokenizer that ships, whose longest token has eleven characters."""
    folder = ROOT / "demo" / "model" / "openvino"
    writer = PromptWriter.load(folder, IMAGE_TOKEN_ID)
    least = writer.least_tokens(Question(id="q", messages=f"{text}."))
    assert least <= len(writer._encode(text))
    assert least == len("".join(f"{text}.".split())) // 44


def test_megabytes_are_refused_before_they_are_tokenized() -> None:
    folder = ROOT / "demo" / "model" / "openvino"
    model = LlavaModel.load(folder, "CPU", {}, 0)
    for question in (
        Question(id="q", messages="x" * 3_000_000),
        Question(id="q", messages="What?", choices=("yes", "x" * 3_000_000)),
    ):
        with pytest.raises(Refusal, match=r"A text of the question has more than 68181 tokens"):
            model.prompt(question, None)
